// Scrolls the table from top to bottom and looks at every step; `medianMs` is the page's own work for a frame.
async () => {
  const table = document.getElementById("table");
  const nextFrame = globalThis.requestAnimationFrame.bind(globalThis);
  const frame = () => new Promise((resolve) => nextFrame(resolve));
  const work = [];
  globalThis.requestAnimationFrame = (draw) =>
    nextFrame((time) => {
      const began = performance.now();
      draw(time);
      work.push(performance.now() - began);
    });
  let mostRows = 0;
  let gaps = 0;
  while (table.scrollTop + table.clientHeight < table.scrollHeight - 1) {
    table.scrollTop += 3700;
    await frame();
    await frame(); // what the scroll event asked for has been drawn
    mostRows = Math.max(mostRows, document.querySelectorAll(".body .row").length);
    const box = table.getBoundingClientRect();
    const seen = [box.y + 60, box.y + box.height / 2, box.bottom - 12].map((y) => document.elementFromPoint(box.x + 60, y));
    if (!seen.every((node) => node?.closest(".body .row"))) gaps += 1;
  }
  globalThis.requestAnimationFrame = nextFrame;
  work.sort((a, b) => a - b);
  const reached = document.querySelector('[aria-rowindex="5001"]') !== null;
  return { reached, mostRows, gaps, draws: work.length, medianMs: work[work.length >> 1] };
}
