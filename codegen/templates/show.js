// What is here only makes reading easier: the page says all without it.
(() => {
  'use strict';

  // The theme stays as it was chosen, where the browser remembers things for files
  const themes = document.querySelectorAll('input[name="theme"]');
  try {
    const chosen = localStorage.getItem('mla-gen-theme');
    themes.forEach((input) => { if (input.value === chosen) input.checked = true; });
  } catch { /* not remembered */ }
  themes.forEach((input) => input.addEventListener('change', () => {
    try { localStorage.setItem('mla-gen-theme', input.value); } catch { /* not remembered */ }
  }));

  const values = (element, what) => (element.dataset[what] || '').split(' ').filter(Boolean);

  // Lights up what makes and reads the values of a box, and their lines
  const light = (graph, box) => {
    graph.querySelectorAll('.lit').forEach((element) => element.classList.remove('lit'));
    if (!box) return;
    const own = new Set([...values(box, 'makes'), ...values(box, 'reads'), ...values(box, 'value')]);
    graph.querySelectorAll('[data-value]').forEach((element) => {
      element.classList.toggle('lit', own.has(element.dataset.value));
    });
    graph.querySelectorAll('.op, .frees .chip').forEach((other) => {
      const met = [...values(other, 'makes'), ...values(other, 'reads')].some((value) => own.has(value));
      other.classList.toggle('lit', met);
    });
  };

  document.querySelectorAll('.graph').forEach((graph) => {
    const boxes = [...graph.querySelectorAll('.op')];
    const target = (event) => event.target.closest('.op, .port');
    graph.addEventListener('pointerover', (event) => light(graph, target(event)));
    graph.addEventListener('pointerleave', () => light(graph, null));
    graph.addEventListener('focusin', (event) => light(graph, target(event)));
    graph.addEventListener('focusout', () => light(graph, null));

    // One stop of the tab key per drawing; arrows move within it
    const enter = (box) => boxes.forEach((other) => { other.tabIndex = other === box ? 0 : -1; });
    if (boxes.length) enter(boxes[0]);
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
    graph.addEventListener('keydown', (event) => {
      const at = boxes.indexOf(event.target.closest('.op'));
      const to = event.key === 'Home' ? 0 : event.key === 'End' ? boxes.length - 1 : at + (step[event.key] || 0);
      if (at < 0 || to === at || !boxes[to]) return;
      event.preventDefault();
      enter(boxes[to]);
      boxes[to].focus();
    });
  });

  // A row that a link leads to is not in a closed list
  const open = () => {
    const row = document.getElementById(location.hash.slice(1));
    const list = row && row.closest('details');
    if (list && !list.open) { list.open = true; row.scrollIntoView(); }
  };
  addEventListener('hashchange', open);
  open();
})();
