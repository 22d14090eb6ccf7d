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
