// Paints a mask over an image: what is painted changes. It works with a mouse, a finger and a keyboard.

const PAINTER = `
<form method="dialog">
  <h2 id="painter-title">Paint what changes</h2>
  <div class="sheet"><img alt=""><canvas tabindex="0" role="application" aria-label="Mask"
    aria-describedby="painter-keys"></canvas><i class="brush"></i></div>
  <p id="painter-keys">Keyboard: arrows move the brush, Space paints. Hold Shift for small steps.</p>
  <div class="tools">
    <label><input type="checkbox" class="erases"> Erase</label>
    <label class="size">Brush size <input type="range" min="1" max="100" value="20"></label>
    <button type="button" class="clear">Clear</button>
    <button type="button" class="invert">Invert</button>
  </div>
  <p class="said" role="status"></p>
  <div class="tools">
    <button type="submit" value="cancel" formnovalidate>Cancel</button>
    <button type="submit" value="use" class="use">Use mask</button>
  </div>
</form>`;
const MAX_MASK_SIDE = 1024; // pixels: finer than any model's latents
const MASK_COLOR = "#ea580c";
const UNPAINTED = "Nothing is painted yet. Paint over what changes.";
const UNSAVED = "Press Escape again to discard what you painted.";

class MaskPainter {
  // `image` and `mask` are addresses; there may be no mask yet. `done` gets the mask as a PNG, white where painted.
  constructor(image, mask, done) {
    this.dialog = Object.assign(document.createElement("dialog"), { className: "painter", innerHTML: PAINTER });
    this.dialog.setAttribute("aria-labelledby", "painter-title");
    document.querySelector(".gradio-container").append(this.dialog);
    const find = (part) => this.dialog.querySelector(part);
    [this.sheet, this.canvas, this.ring, this.said] = [".sheet", "canvas", ".brush", ".said"].map(find);
    [this.size, this.erases] = ["[type=range]", ".erases"].map(find);
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.at = null; // of the brush, in pixels of the mask
    this.listen();
    this.isUnsaved = false; // something was painted, and Escape was not pressed since
    find(".clear").addEventListener("click", () => this.clear());
    find(".invert").addEventListener("click", () => this.invert());
    find("form").addEventListener("submit", (event) => {
      if (event.submitter.value === "use" && !this.isPainted()) this.stay(event, UNPAINTED);
    });
    this.dialog.addEventListener("cancel", (event) => {
      if (this.isUnsaved) this.stay(event, UNSAVED);
      this.isUnsaved = false;
    });
    this.dialog.addEventListener("close", () => {
      if (this.dialog.returnValue === "use") this.blob().then(done);
      this.dialog.remove();
    });
    this.opened = this.open(find("img"), image, mask).catch((error) => {
      this.dialog.remove();
      throw error;
    });
  }

  async open(picture, image, mask) {
    picture.src = image;
    await picture.decode();
    const scale = Math.min(1, MAX_MASK_SIDE / Math.max(picture.naturalWidth, picture.naturalHeight));
    this.canvas.width = Math.max(1, Math.round(picture.naturalWidth * scale));
    this.canvas.height = Math.max(1, Math.round(picture.naturalHeight * scale));
    this.sheet.style.setProperty("--shape", this.canvas.width / this.canvas.height);
    this.move(this.canvas.width / 2, this.canvas.height / 2);
    this.dialog.showModal();
    this.canvas.focus();
    if (mask) await this.load(mask).catch(() => console.warn("The mask is gone."));
  }

  // Shows a mask that there is: white, and grey from half on, is painted.
  async load(address) {
    const mask = Object.assign(new Image(), { src: address });
    await mask.decode();
    const { width, height } = this.canvas;
    this.pen.drawImage(mask, 0, 0, width, height);
    const pixels = this.pen.getImageData(0, 0, width, height);
    for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = pixels.data[at] < 128 ? 0 : 255;
    this.pen.putImageData(pixels, 0, 0);
    this.fill("source-in", MASK_COLOR);
  }

  listen() {
    const { canvas } = this;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      const scale = canvas.width / box.width;
      return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.move(...place(event));
      this.paint(...this.at);
    });
    canvas.addEventListener("pointermove", (event) => {
      const from = this.at;
      this.move(...place(event));
      if (event.buttons) this.paint(...from);
    });
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    let isDown = false; // Space
    canvas.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (event.key === " ") isDown = true;
      else if (!step) return;
      event.preventDefault();
      const from = this.at;
      const length = event.shiftKey ? 1 : Math.max(1, this.width / 2);
      if (step) this.move(from[0] + step[0] * length, from[1] + step[1] * length);
      if (isDown) this.paint(...from);
    });
    for (const end of ["keyup", "blur"]) {
      canvas.addEventListener(end, (event) => (isDown &&= event.key !== " " && end !== "blur"));
    }
    this.size.addEventListener("input", () => this.move(...this.at));
  }

  // The brush's, in pixels of the mask.
  get width() {
    return (Number(this.size.value) / 200) * Math.max(this.canvas.width, this.canvas.height);
  }

  move(x, y) {
    const { width, height } = this.canvas;
    this.at = [Math.min(width, Math.max(0, x)), Math.min(height, Math.max(0, y))];
    this.ring.style.left = `${(100 * this.at[0]) / width}%`;
    this.ring.style.top = `${(100 * this.at[1]) / height}%`;
    this.ring.style.width = `${(100 * this.width) / width}%`;
  }

  // Keeps the dialog open, and says why.
  stay(event, words) {
    event.preventDefault();
    this.said.textContent = words;
  }

  changed() {
    this.isUnsaved = true;
    this.said.textContent = "";
  }

  clear() {
    this.pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.changed();
  }

  invert() {
    this.fill("xor", MASK_COLOR);
    this.changed();
  }

  // Paints from a place to the brush's.
  paint(x, y) {
    this.pen.globalCompositeOperation = this.erases.checked ? "destination-out" : "source-over";
    Object.assign(this.pen, { lineWidth: this.width, lineCap: "round", strokeStyle: MASK_COLOR, fillStyle: MASK_COLOR });
    this.pen.beginPath();
    this.pen.moveTo(x, y);
    this.pen.lineTo(...this.at);
    this.pen.stroke();
    this.pen.beginPath(); // a line without a length has no caps
    this.pen.arc(...this.at, this.width / 2, 0, 2 * Math.PI);
    this.pen.fill();
    this.pen.globalCompositeOperation = "source-over";
    this.changed();
  }

  fill(operation, color) {
    Object.assign(this.pen, { globalCompositeOperation: operation, fillStyle: color });
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.pen.globalCompositeOperation = "source-over";
  }

  isPainted() {
    return this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height).data.some((byte) => byte > 0);
  }

  blob() {
    this.fill("source-in", "white");
    this.fill("destination-over", "black");
    return new Promise((done) => this.canvas.toBlob(done, "image/png"));
  }
}
