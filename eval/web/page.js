// what Gradio leaves out for readers of screens
const NAMES = { "common.webcam": "Take a photo", "common.video": "Record a clip", "common.clipboard": "Paste", "common.clear": "Clear" };

function repair() {
  const answers = document.querySelector("#answers");
  if (answers && !answers.hasAttribute("aria-live")) answers.setAttribute("aria-live", "polite");
  for (const button of document.querySelectorAll("#examples button[aria-label^=Thumbnail]")) {
    button.setAttribute("aria-label", "Example: " + button.innerText.trim());
  }
  for (const button of document.querySelectorAll("#images button[aria-label^='common.']")) {
    const name = NAMES[button.getAttribute("aria-label")] || button.getAttribute("aria-label").slice(7);
    button.setAttribute("aria-label", name);
    button.title = name;
  }
  // a button inside a button: the inner one is the control
  for (const button of document.querySelectorAll("#images button:has(button):not([role])")) {
    button.setAttribute("role", "group");
    button.tabIndex = -1;
  }
}

new MutationObserver(repair).observe(document.documentElement, { childList: true, subtree: true });
