/** What the scripts of the pages do with elements: finding, copying, sorting a table's rows, naming a chart. */

/** Returns an element that the page has. */
export function find<E extends Element = HTMLElement>(selector: string, within: ParentNode = document): E {
  const found = within.querySelector<E>(selector);
  if (found === null) throw new Error(`the page has no ${selector}`);
  return found;
}

export const findAll = (selector: string, within: ParentNode = document): HTMLElement[] => [
  ...within.querySelectorAll<HTMLElement>(selector),
];

export const percent = (value: number): string => `${(100 * value).toFixed(2)} %`;

/** A page opened from a disk may have no clipboard: then the text is selected, for the user to copy. */
export async function copyText(source: Element, button: Element): Promise<void> {
  const name = button.textContent;
  try {
    await navigator.clipboard.writeText(source.textContent ?? '');
    button.textContent = 'Copied';
  } catch {
    getSelection()?.selectAllChildren(source);
    button.textContent = document.execCommand('copy') ? 'Copied' : 'Selected: press Ctrl-C';
  }
  setTimeout(() => {
    button.textContent = name;
  }, 2000);
}

/** Sorts the rows below a header by its column's `data-value`, the other way where they are sorted so already. */
export function sortRows(header: Element, body: Element, rows: HTMLElement[]): void {
  const headers = [...(header.parentElement?.children ?? [])];
  const column = headers.indexOf(header);
  const descends = header.getAttribute('aria-sort') === 'ascending';
  for (const other of headers) other.removeAttribute('aria-sort');
  header.setAttribute('aria-sort', descends ? 'descending' : 'ascending');
  const cellOf = (row: Element): string => (row.children[column] as HTMLElement).dataset.value ?? '';
  const compare = (a: string, b: string): number => {
    if (a === b) return 0;
    if (a === '' || b === '') return a === '' ? 1 : -1; // what is missing stays below, whatever the direction
    const numeric = Number(a) - Number(b);
    const order = Number.isNaN(numeric) ? (a < b ? -1 : 1) : numeric;
    return descends ? -order : order;
  };
  body.append(...rows.toSorted((a, b) => compare(cellOf(a), cellOf(b))));
}

/** A chart is one picture with a name: the names that its library gives to lines and groups are no role's. */
export function nameChart(chart: Element, name: string): void {
  for (const part of chart.querySelectorAll('[aria-label]')) part.removeAttribute('aria-label');
  chart.setAttribute('role', 'img');
  chart.setAttribute('aria-label', name);
}

/** Draws, and draws again where the page gets another width: on a phone its height alone comes and goes with the address bar. */
export function keepDrawn(draw: () => void): void {
  draw();
  let width = document.body.clientWidth;
  addEventListener('resize', () => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    draw();
  });
}
