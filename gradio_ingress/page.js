// Ctrl+Enter or ⌘+Enter generates, wherever the cursor is. Gradio's own is Shift+Enter.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  document.querySelector("button#generate:not(:disabled)")?.click();
});

// Gradio corrects a number typed beside a slider when the cursor leaves it. We want to say what is wrong with it.
document.addEventListener(
  "blur",
  (event) => {
    if (event.target instanceof Element && event.target.matches('[data-testid="number-input"]')) event.stopPropagation();
  },
  true,
);

// A finger sets a slider where it lands. If it goes on to scroll the page, the slider goes back.
document.addEventListener("pointerdown", ({ target, pointerId }) => {
  if (!(target instanceof Element && target.matches('input[type="range"]'))) return;
  const before = target.value;
  const ended = new AbortController();
  const end = (event) => {
    if (event.pointerId !== pointerId) return;
    ended.abort();
    if (event.type !== "pointercancel" || target.value === before) return;
    target.value = before;
    target.dispatchEvent(new Event("input", { bubbles: true }));
  };
  for (const type of ["pointerup", "pointercancel"]) document.addEventListener(type, end, { signal: ended.signal });
});

// While the connection is lost, what the page shows of the service is hidden, as it may be true no more: see `style.css`.
addEventListener("connection", ({ detail }) => (document.documentElement.dataset.connection = detail));

// Gradio's sections do not say whether they are open.
function sayWhatIsOpen() {
  for (const button of document.querySelectorAll("button.label-wrap")) {
    const isOpen = String(button.classList.contains("open"));
    if (button.ariaExpanded !== isOpen) button.ariaExpanded = isOpen;
  }
}
new MutationObserver(sayWhatIsOpen).observe(document, { subtree: true, childList: true, attributeFilter: ["class"] });

// A button may go while it has the focus, as Cancel does when its job ends, or be made anew, as those of a list are.
// The same one of the same job has the focus then, else another of that job, else Generate.
const ACTING = "button#cancel, button[data-act]";
let focused; // such a button
document.addEventListener("focusin", ({ target }) => (focused = target.matches(ACTING) ? target : undefined));
document.addEventListener("pointerdown", () => (focused = undefined)); // who points elsewhere has left it

function passFocusOn() {
  if (!focused || focused.checkVisibility()) return;
  const { act, job, index } = focused.dataset;
  focused = undefined;
  const ofJob = [...document.querySelectorAll("button[data-act]")].filter((it) => job && it.dataset.job === job);
  const same = ofJob.find((it) => it.dataset.act === act && it.dataset.index === index);
  (same ?? ofJob[0] ?? document.querySelector("button#generate")).focus();
}
new MutationObserver(passFocusOn).observe(document, { subtree: true, childList: true, attributes: true });

// Buttons that need no server.
document.addEventListener("click", (event) => {
  const button = event.target instanceof Element && event.target.closest("button");
  if (!button) return;
  if ("copy" in button.dataset) copy(button, button.dataset.copy.replaceAll("http://this.page", location.origin));
  if ("copyLink" in button.dataset) copy(button, linkTo(button.dataset.copyLink));
  if ("word" in button.dataset) addWord(button.dataset.field, button.dataset.word);
  if ("downloadAll" in button.dataset) document.querySelectorAll(".tile a[download]").forEach((link) => link.click());
});

// Adds a word to a text of the form, unless it is there already: in either case of letters, and not inside another word.
async function addWord(id, word) {
  const find = () => document.querySelector(`#${id} textarea`);
  await darkroom.reveal(id);
  const literal = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const before = find().value;
  if (new RegExp(`(?<![\\p{L}\\p{N}_])${literal}(?![\\p{L}\\p{N}_])`, "iu").test(before)) return;
  const text = before.replace(/[\s,]+$/, "");
  const added = text ? `${text}, ${word}` : word;
  for (let frames = 0; frames < 10 && find().value !== added; frames++) {
    find().value = added; // again if its section opens just now: Gradio then puts back what it had
    find().dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise(requestAnimationFrame);
  }
}

async function copy(button, text) {
  const label = (button.dataset.label ??= button.textContent);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    prompt("Copy this:", text); // no clipboard without HTTPS
  }
  setTimeout(() => (button.textContent = label), 1500);
}

function linkTo(job) {
  const address = new URL(location.href);
  address.searchParams.set("job", job);
  return address.href;
}

const ready = () => document.querySelector("button#generate:not(:disabled)"); // and the form fitted to a model
const differ = (one, other) => JSON.stringify(one) !== JSON.stringify(other);

const tabs = new BroadcastChannel("darkroom"); // of this browser, which tell each other of jobs
const known = new Set(); // the jobs that this tab has shown or heard of

const darkroom = {
  // After each change of the status: the address names the job that is shown, and the other tabs hear of it.
  shown(element) {
    const job = element.querySelector(".status")?.dataset.link;
    if (job && linkTo(job) !== location.href) history.replaceState(history.state, "", linkTo(job));
    if (!job || known.has(job)) return;
    known.add(job);
    tabs.postMessage(job);
  },

  // Calls `look` when another tab has shown a job that is new here. A hidden tab looks when it is seen again: it would
  // take one of the browser's six connections.
  onNews(look) {
    let isStale = false;
    const update = () => {
      if (!isStale || document.hidden || !ready()) return;
      isStale = false;
      look();
    };
    tabs.onmessage = ({ data: job }) => {
      if (known.has(job)) return;
      known.add(job);
      isStale = true;
      update();
    };
    document.addEventListener("visibilitychange", update);
  },

  // After each change of the message: a field at fault says so.
  messageChanged(element) {
    darkroom.pardon(document);
    const line = element.querySelector(".status");
    if (line?.dataset.field) darkroom.blame(line.dataset.field, line.querySelector('[role="status"]').textContent);
  },

  pardon(area) {
    area.querySelectorAll(".field-error").forEach((words) => words.remove());
    area.querySelectorAll("[aria-invalid]").forEach((input) => {
      for (const mark of ["aria-invalid", "aria-describedby"]) input.removeAttribute(mark);
    });
  },

  // Returns a field's element, which people see then: Gradio makes what is in a section when it is opened first.
  async reveal(id) {
    if (!document.getElementById(id)?.checkVisibility()) {
      const section = document.getElementById(`section-${id.split("-")[0]}`) ?? document.getElementById("advanced");
      section.querySelector("button.label-wrap:not(.open)")?.click();
    }
    for (let frames = 0; frames < 60 && !document.getElementById(id)?.checkVisibility(); frames++) {
      await new Promise(requestAnimationFrame);
    }
    return document.getElementById(id);
  },

  async blame(id, words) {
    const field = await darkroom.reveal(id);
    if (!field) return;
    darkroom.pardon(field);
    const input = field.querySelector("textarea, input") ?? field;
    const note = Object.assign(document.createElement("p"), { className: "field-error", textContent: words });
    note.id = `${field.id}-error`;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", note.id);
    field.append(note);
    requestAnimationFrame(() => input.focus()); // when what was closed has opened
  },

  // The form's values as they were left in this tab, for the controls' ids; null for those that are not known.
  draft: (ids) => ids.map((id) => draft.left[id] ?? null),

  // After each change of the form: it is kept, and the message goes (the value that is returned) if it blamed a field
  // that has changed.
  changed(ids, values) {
    const blamed = document.querySelector("#message .status")?.dataset.field;
    const mended = ids.some((id, k) => id === blamed && id in draft.now && differ(draft.now[id], values[k]));
    ids.forEach((id, k) => (draft.now[id] = values[k]));
    draft.keep();
    if (mended) return "";
  },

  // Before a change of a field whose value is the same again, as of an image that had gone: what blamed it goes.
  renewed: (id) => (draft.now[id] = null),

  // When somebody has done something else: a message goes that blames no field of the form.
  dismissMessage() {
    if (document.querySelector('#message .status[data-state="problem"]:not([data-field])')) return "";
  },
};

// The form, in the tab's own storage, so that it outlives the page. A browser may forbid storage: then it does not.
const draft = {
  left: {}, // as the last page left it, with what is typed before this one is ready
  now: {},

  load() {
    try {
      draft.left = JSON.parse(sessionStorage.getItem("darkroom")) ?? {};
    } catch (error) {
      console.warn("The form is not kept:", error);
    }
  },

  keep() {
    const form = ready() ? draft.now : draft.left; // until then the form's values are not the draft's
    try {
      sessionStorage.setItem("darkroom", JSON.stringify(form));
    } catch (error) {
      console.warn("The form is not kept:", error);
    }
  },
};
draft.load();

// While the service still starts, a prompt can be typed already.
document.addEventListener("input", (event) => {
  if (!ready() && event.target.matches("#prompt textarea")) draft.left.prompt = event.target.value;
});

// Gradio runs no more events once it has lost its connection, until it loads the page again; people type on.
addEventListener("pagehide", () => {
  for (const id in draft.now) {
    const text = document.getElementById(id)?.querySelector("textarea");
    if (text) draft.now[id] = text.value;
  }
  draft.keep();
});
