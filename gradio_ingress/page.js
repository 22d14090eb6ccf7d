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

// Buttons that need no server.
document.addEventListener("click", (event) => {
  const button = event.target instanceof Element && event.target.closest("button");
  if (!button) return;
  if ("copy" in button.dataset) copy(button, button.dataset.copy.replaceAll("http://this.page", location.origin));
  if ("copyLink" in button.dataset) copy(button, linkTo(button.dataset.copyLink));
  if ("downloadAll" in button.dataset) document.querySelectorAll(".tile a[download]").forEach((link) => link.click());
});

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

const darkroom = {
  // After each change of the status: the address names the job that is shown, and a field at fault says so.
  told(element) {
    const line = element.querySelector(".status");
    if (line?.dataset.link) history.replaceState(history.state, "", linkTo(line.dataset.link));
    document.querySelectorAll(".field-error").forEach((words) => words.remove());
    document.querySelectorAll("[aria-invalid]").forEach((input) => {
      for (const mark of ["aria-invalid", "aria-describedby"]) input.removeAttribute(mark);
    });
    const field = line?.dataset.field && document.getElementById(line.dataset.field);
    if (field) darkroom.blame(field, line.querySelector('[role="status"]').textContent);
  },

  blame(field, words) {
    if (!field.checkVisibility()) field.closest("#advanced")?.querySelector("button").click();
    const input = field.querySelector("textarea, input") ?? field;
    const said = Object.assign(document.createElement("p"), { className: "field-error", textContent: words });
    said.id = `${field.id}-error`;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", said.id);
    field.append(said);
    requestAnimationFrame(() => input.focus()); // when what was closed has opened
  },
};
