// Shows the examples that the form asks for, and switches boxes and masks off. Without it all of them are shown.
(() => {
  const form = document.querySelector("form.filters");
  if (!form) return;
  const plain = (text) => text.normalize("NFKC").toLocaleLowerCase().replace(/\s+/g, " ").trim();
  const cards = [...document.querySelectorAll("article[data-score]")];
  const texts = new Map(cards.map((card) => [card, plain(card.querySelector(".text").textContent)]));
  const field = (name) => form.elements.namedItem(name);
  const value = (name) => (field(name) ? field(name).value : "");
  const limit = (name, without) => (value(name) === "" ? without : Number(value(name)));

  function apply() {
    const task = value("task"), kind = value("kind"), words = plain(value("words"));
    const from = limit("from", -Infinity), to = limit("to", Infinity);
    let shown = 0;
    for (const card of cards) {
      const score = Number(card.dataset.score);
      const wanted =
        (!task || card.dataset.task === task) &&
        (!kind || card.dataset.kind.split(" ").includes(kind)) &&
        (from === -Infinity || score >= from) &&
        (to === Infinity || score <= to) &&
        (!words || texts.get(card).includes(words));
      card.hidden = !wanted;
      shown += wanted;
    }
    for (const group of document.querySelectorAll(".group"))
      group.hidden = !group.querySelector("article:not([hidden])");
    for (const section of document.querySelectorAll("section[data-task]"))
      section.hidden = Boolean(task) && section.dataset.task !== task;
    for (const layer of ["boxes", "masks"])
      if (field(layer))
        for (const image of document.querySelectorAll(`img.${layer}`)) image.hidden = !field(layer).checked;
    form.querySelector("output").textContent = `${shown} of ${cards.length} examples shown`;
  }

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  // the fields have their first values after this event
  form.addEventListener("reset", () => setTimeout(apply));
  for (const link of document.querySelectorAll('a[href^="#task-"]'))
    link.addEventListener("click", () => {
      if (value("task")) (field("task").value = ""), apply();
    });
  form.hidden = false;
  apply();
})();
