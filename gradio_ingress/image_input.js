// The images of the form: the browser sends each to the API, as any program would, and the form keeps its id.

const FILLED_WITHIN_MS = 5000;
const GONE = "This image is gone. Choose it again.";
const MASK_GONE = "Its mask is gone. Remove it, or paint it again.";

const images = {
  takers: new Map(), // the id of a control's element -> what sends a file for it, and what sets its value
  names: new Map(), // the id of a control's element -> the image that it has
  sending: new Set(), // uploads that have not been answered

  // Makes a control take images. Its value is the id of an input, or the name of a finished image.
  // Its event `select` has a larger image and its mask.
  take(element, props, watch, trigger) {
    const field = element.closest(".block");
    const [label, hint, state] = [".image-label", ".hint", ".image-state"].map((part) => element.querySelector(part));
    const [file, picture, remove] = ["input", "img", ".remove"].map((part) => element.querySelector(part));
    const extend = element.querySelector(".extend");
    let newest = 0;
    let said = ""; // why there is no image any more
    const arrivals = []; // called when the value has changed

    const show = () => {
      label.textContent = props.label;
      file.setAttribute("aria-label", `${props.label}. ${hint.textContent}`);
      picture.alt = props.label;
      picture.hidden = remove.hidden = !props.value;
      hint.hidden = !!props.value;
      if (extend) extend.hidden = !props.value;
      if (props.value) said = "";
      state.textContent = said;
      images.names.set(field.id, props.value);
      if (props.value) {
        picture.src = images.address(props.value);
        noteIfGone(props.value);
      } else picture.removeAttribute("src");
      arrivals.splice(0).forEach((arrived) => arrived());
    };
    // The browser may still have a picture that the service has deleted.
    const noteIfGone = async (name) => {
      if ((await images.isGone(name)) && name === props.value) state.textContent = GONE;
    };
    const set = (value, words = "") => {
      newest += 1; // an upload that still comes is not wanted
      said = words;
      props.value = value;
      darkroom.pardon(field);
      show();
    };
    // Shows what is done until `answer` has come, and hands that on unless it is no longer wanted.
    const wait = async (words, answer, use) => {
      const mine = ++newest;
      state.textContent = words;
      try {
        const found = await images.awaited(answer);
        if (mine === newest) use(found);
      } catch (error) {
        if (mine !== newest) return;
        state.textContent = "";
        darkroom.blame(field.id, error.message);
      }
    };
    const dropMask = (words) => {
      const mask = extend?.dataset.mask; // it may still be on its way
      images.takers.get(mask)?.set(null, images.names.get(mask) ? words : "");
    };
    const send = (image) =>
      wait("Sending the image…", images.send(image), ({ id, width, height }) => {
        const isSame = id === props.value;
        if (!isSame && !images.fits(field.id, width, height)) dropMask("Removed: the new image has another size.");
        set(id);
        if (!isSame) return;
        darkroom.renewed(field.id);
        trigger("change");
      });

    watch(["value", "label"], show);
    show();
    picture.addEventListener("error", () => props.value && (state.textContent = GONE));
    remove.addEventListener("click", () => {
      set(null);
      dropMask("Removed with its image.");
      file.focus();
    });
    file.addEventListener("change", () => {
      if (file.files.length) send(file.files[0]);
      file.value = ""; // so that the same file can be chosen again
    });
    element.querySelector(".paint")?.addEventListener("click", (event) => {
      if (document.querySelector(".painter")) return; // it opens once its image has come
      const over = event.target.dataset.over;
      const image = images.names.get(over);
      if (!image) return darkroom.blame(over, "Choose an image first. Then paint over what changes in it.");
      const painter = new MaskPainter(images.address(image), props.value && images.address(props.value), send);
      painter.opened.catch(() => darkroom.blame(over, GONE));
    });
    extend?.addEventListener("click", ({ target: { dataset } }) => {
      if (!("extend" in dataset)) return;
      const from = props.value;
      const answer = images.extend(from, images.names.get(extend.dataset.mask), dataset.extend);
      const shown = answer.then(({ input, mask }) => {
        if (props.value !== from) return null;
        trigger("select", { image: input.id, mask: mask.id });
        return new Promise((arrived) => {
          arrivals.push(arrived); // when the server has put both into the form
          setTimeout(arrived, FILLED_WITHIN_MS);
        });
      });
      wait("Extending the image…", shown, () => {});
    });
    images.takers.set(field.id, { send, set });
  },

  // Whether an image may take the place of a control's, with its mask: there is none yet, or one of the same size.
  fits(id, width, height) {
    const { naturalWidth, naturalHeight } = document.querySelector(`#${id} img`);
    return !images.names.get(id) || (naturalWidth === width && naturalHeight === height);
  },

  address(name) {
    const path = encodeURIComponent(name);
    return name.startsWith("input_") ? `/v1/inputs/${path}/content` : `/v1/files/${path}`;
  },

  async isGone(name) {
    try {
      const { status } = await fetch(images.address(name), { method: "HEAD", cache: "no-store" });
      return status === 404 || status === 410;
    } catch {
      return false; // the page says that there is no connection
    }
  },

  // An answer that Generate waits for.
  awaited(answer) {
    images.sending.add(answer);
    answer.catch(() => {}).finally(() => images.sending.delete(answer));
    return answer;
  },

  // Sends an image, and returns its id and its size.
  async send(image) {
    const headers = { "Content-Type": "application/octet-stream" };
    return images.post("/v1/inputs", { body: image, headers });
  },

  // Returns an image with a quarter more on one side, or on all, and the mask of what is new.
  async extend(name, mask, side) {
    const idOf = async (each) => {
      if (each.startsWith("input_")) return each;
      const found = await fetch(images.address(each));
      if (!found.ok) throw Error(GONE);
      return (await images.send(await found.blob())).id;
    };
    const sides = Object.fromEntries((side ? [side] : ["left", "right", "up", "down"]).map((each) => [each, 0.25]));
    const body = JSON.stringify({ ...sides, mask: mask ? await idOf(mask) : null });
    const headers = { "Content-Type": "application/json" };
    return images.post(`/v1/inputs/${await idOf(name)}/extend`, { body, headers });
  },

  async post(address, request) {
    let answer;
    try {
      answer = await fetch(address, { method: "POST", ...request });
    } catch {
      throw Error("The service could not be reached. Try again.");
    }
    const body = await answer.json().catch(() => ({}));
    if (answer.ok) return body;
    if (body.error?.code === "input_not_found") throw Error(body.error.param === "mask" ? MASK_GONE : GONE);
    throw Error(images.words(body.error?.message) ?? `The service answered HTTP ${answer.status}. Try again.`);
  },

  // An error of the API, whose request had no other field than its body.
  words: (message) =>
    message
      ?.replace(/^(body|image|mask): /, "")
      .replace(/^(The )?body\b/, "The image")
      .replace(/(\d+) bytes/g, (_, bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`),
};

// A slider below a picture shows the image that it began with, from the left.
document.addEventListener("input", (event) => {
  if (!event.target.matches(".compare")) return;
  const before = event.target.closest(".tile").querySelector(".before");
  before.src ||= before.dataset.src;
  before.hidden = false;
  before.style.clipPath = `inset(0 ${100 - event.target.value}% 0 0)`;
});
document.addEventListener(
  "error",
  (event) => event.target.matches?.(".before") && event.target.closest(".tile").querySelector(".compare").remove(),
  true,
);

// A picture that becomes the image to begin with leaves the mask if it is as large.
document.addEventListener(
  "click",
  ({ target }) => {
    const button = target.closest('button[data-act="input"]');
    if (!button) return;
    const { naturalWidth, naturalHeight } = button.closest(".tile").querySelector("img");
    button.dataset.fits = images.fits("init-input", naturalWidth, naturalHeight);
  },
  true,
);

// What would generate waits for images that are on their way.
document.addEventListener(
  "click",
  (event) => {
    const button = event.target.closest("#generate, #examples button");
    if (!button || !images.sending.size) return;
    event.stopPropagation();
    Promise.allSettled(images.sending).then((ends) => {
      if (ends.every((end) => end.status === "fulfilled")) setTimeout(() => button.click());
    });
  },
  true,
);

// To leave the page would lose an image that is on its way: the browser asks.
addEventListener("beforeunload", (event) => images.sending.size && event.preventDefault());

// An image that is dropped or pasted goes to the control that it was dropped on, else to the one to begin with.
function aimedAt({ target }) {
  const element = target instanceof Element ? target : document.body; // Firefox drops on texts
  if (element.closest("#png-info")) return null;
  return element.closest(".block.image-input")?.id ?? "init-input";
}

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");

async function takeInto(id, image) {
  await darkroom.reveal(id);
  images.takers.get(id)?.send(image);
}

document.addEventListener("dragover", (event) => {
  const id = carriesFiles(event) && aimedAt(event);
  if (!id) return;
  event.preventDefault();
  document.body.dataset.dropping = id;
});
document.addEventListener("dragleave", (event) => event.relatedTarget || delete document.body.dataset.dropping);
document.addEventListener("drop", (event) => {
  delete document.body.dataset.dropping;
  const id = carriesFiles(event) && aimedAt(event);
  if (!id) return;
  event.preventDefault();
  takeInto(id, event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const id = aimedAt(event);
  const image = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (!id || !image || event.clipboardData.types.includes("text/plain")) return; // text goes where the cursor is
  event.preventDefault();
  takeInto(id, image);
});
