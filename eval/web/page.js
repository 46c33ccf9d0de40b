// what Gradio leaves out for readers of screens
new MutationObserver(() => {
  const answers = document.querySelector("#answers");
  if (answers && !answers.hasAttribute("aria-live")) answers.setAttribute("aria-live", "polite");
}).observe(document.documentElement, { childList: true, subtree: true });
