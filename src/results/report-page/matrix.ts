/** The confusion matrix on a canvas: 400 classes are 160,000 cells. It can be ordered, zoomed, dragged and searched. */

import * as d3 from 'd3';
import { find, findAll, percent } from './elements.ts';
import type { RunPageData } from './run-data.ts';

/** As many classes as fit with readable names. */
const NAMED_CELL = 13;
const FEWEST = 4;
/** Classes shown around one that was looked for. */
const AROUND = 14;
const NAME_WIDTH = 110;
const MAX_NAMED_VIDEOS = 12;

type Order = 'confusion' | 'mistakes' | 'label' | 'name';

interface Cell {
  row: number;
  column: number;
}

export function startMatrix(data: RunPageData): { draw(): void } {
  const matrix = new Matrix(data);
  matrix.listen();
  return matrix;
}

class Matrix {
  readonly #data: RunPageData;
  readonly #canvas = find<HTMLCanvasElement>('#matrix');
  /** By label. */
  readonly #totals: number[];
  readonly #counts = new Map<number, number>();
  readonly #size: number;
  #order: number[];
  /** Places of the order by label. */
  #places: number[] = [];
  /** What is in sight, in places of the order. */
  #view = { row: 0, column: 0, count: 1 };
  #cell: Cell | null = null;
  /** In pixels of the page. */
  #frame = { left: 0, top: 0, side: 1 };

  constructor(data: RunPageData) {
    this.#data = data;
    this.#size = data.classes.length;
    this.#totals = Array<number>(this.#size).fill(0);
    for (const [label, predicted, count] of data.confusion) {
      this.#totals[label] = (this.#totals[label] ?? 0) + count;
      this.#counts.set(label * this.#size + predicted, count);
    }
    this.#order = data.order;
    this.#setOrder('confusion');
    // Of many classes those with most mistakes, as many as can be named: all of them are a thin line.
    const named = Math.floor((this.#canvas.clientWidth - NAME_WIDTH) / NAMED_CELL);
    this.#view = { row: 0, column: 0, count: Math.min(this.#size, Math.max(FEWEST, named)) };
  }

  draw(): void {
    const { clientWidth: width } = this.#canvas;
    if (width === 0) return; // the page is being put away
    const ratio = devicePixelRatio || 1;
    const isNamed = (width - NAME_WIDTH) / this.#view.count >= NAMED_CELL;
    const margin = isNamed ? NAME_WIDTH : 0;
    this.#frame = { left: margin, top: margin, side: width - margin };
    this.#canvas.width = this.#canvas.height = Math.round(width * ratio);
    this.#canvas.style.height = `${width}px`;
    const context = this.#canvas.getContext('2d');
    if (context === null) return;
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.#canvas);
    const read = (name: string): string => style.getPropertyValue(name).trim();
    this.#drawCells(context, read);
    if (isNamed) this.#drawNames(context, read('--ink'));
    this.#drawCursor(context, read('--ink'));
  }

  /** The cells in sight, those with the largest share of their row last, so that none hides them. */
  #drawCells(context: CanvasRenderingContext2D, read: (name: string) => string): void {
    const { left, top, side } = this.#frame;
    const cell = side / this.#view.count;
    context.fillStyle = read('--card');
    context.fillRect(left, top, side, side);
    const right = d3.interpolateLab(read('--card'), read('--low'));
    const wrong = d3.interpolateLab(read('--card'), read('--accent'));
    const seen = this.#data.confusion.flatMap(([label, predicted, count]) => {
      const [row, column] = [this.#placeOf(label) - this.#view.row, this.#placeOf(predicted) - this.#view.column];
      if (row < 0 || column < 0 || row >= this.#view.count || column >= this.#view.count) return [];
      return [{ row, column, share: count / (this.#totals[label] ?? 1), isRight: label === predicted }];
    });
    seen.sort((a, b) => Number(b.isRight) - Number(a.isRight) || a.share - b.share);
    const shown = Math.max(cell, 2); // of 400 classes on a phone a cell is less than a pixel
    for (const { row, column, share, isRight } of seen) {
      context.fillStyle = (isRight ? right : wrong)(isRight ? share : Math.min(1, 0.25 + 2 * share));
      context.fillRect(left + column * cell, top + row * cell, shown, shown);
    }
    context.strokeStyle = read('--line');
    context.lineWidth = 1;
    context.strokeRect(left + 0.5, top + 0.5, side - 1, side - 1);
  }

  #drawNames(context: CanvasRenderingContext2D, ink: string): void {
    const { left, top, side } = this.#frame;
    const cell = side / this.#view.count;
    context.fillStyle = ink;
    context.font = `${Math.min(13, cell * 0.85)}px system-ui, sans-serif`;
    context.textBaseline = 'middle';
    for (let place = 0; place < this.#view.count; place++) {
      const middle = (place + 0.5) * cell;
      context.textAlign = 'right';
      context.fillText(this.#nameAt(this.#view.row + place), left - 5, top + middle, NAME_WIDTH - 8);
      context.save();
      context.translate(left + middle, top - 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = 'left';
      context.fillText(this.#nameAt(this.#view.column + place), 0, 0, NAME_WIDTH - 8);
      context.restore();
    }
  }

  #drawCursor(context: CanvasRenderingContext2D, ink: string): void {
    if (this.#cell === null) return;
    const { left, top, side } = this.#frame;
    const cell = side / this.#view.count;
    const [row, column] = [this.#cell.row - this.#view.row, this.#cell.column - this.#view.column];
    context.save();
    context.beginPath();
    context.rect(left, top, side, side);
    context.clip();
    context.strokeStyle = ink;
    context.globalAlpha = 0.3;
    context.strokeRect(left, top + row * cell, side, cell);
    context.strokeRect(left + column * cell, top, cell, side);
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    context.strokeRect(left + column * cell, top + row * cell, Math.max(2, cell), Math.max(2, cell));
    context.restore();
  }

  readonly #placeOf = (label: number): number => this.#places[label] ?? 0;
  readonly #nameAt = (place: number): string => this.#data.classes[this.#order[place] ?? -1] ?? '';

  #setOrder(order: Order): void {
    const { classes, confusion } = this.#data;
    const mistakes = Array<number>(this.#size).fill(0);
    for (const [label, predicted, count] of confusion)
      if (label !== predicted) mistakes[label] = (mistakes[label] ?? 0) + count;
    const labels = d3.range(this.#size);
    if (order === 'confusion') this.#order = this.#data.order;
    else if (order === 'label') this.#order = labels;
    else if (order === 'name') this.#order = d3.sort(labels, (label) => classes[label]?.toLowerCase());
    else
      this.#order = d3.sort(
        labels,
        (label) => -(mistakes[label] ?? 0),
        (label) => label,
      );
    this.#places = [];
    for (const [place, label] of this.#order.entries()) this.#places[label] = place;
  }

  /** Shows so many classes around a row and a column, as far as there are some on each side. */
  #zoom(count: number, at: Cell): void {
    const kept = Math.round(Math.min(this.#size, Math.max(Math.min(FEWEST, this.#size), count)));
    const first = (middle: number): number => Math.min(this.#size - kept, Math.max(0, Math.round(middle - kept / 2)));
    this.#view = { row: first(at.row), column: first(at.column), count: kept };
    this.draw();
  }

  #middle(): Cell {
    const { row, column, count } = this.#view;
    return this.#cell ?? { row: row + count / 2, column: column + count / 2 };
  }

  #tell(cell: Cell | null): void {
    this.#cell = cell;
    const list = find('#cell-videos');
    list.replaceChildren();
    const [label, predicted] = [this.#order[cell?.row ?? -1], this.#order[cell?.column ?? -1]];
    if (label !== undefined && predicted !== undefined) {
      const count = this.#counts.get(label * this.#size + predicted) ?? 0;
      const total = this.#totals[label] ?? 0;
      const { classes } = this.#data;
      const what =
        label === predicted ? `${classes[label]}, right` : `${classes[label]} taken for ${classes[predicted]}`;
      const of = total === 0 ? 'the list has none' : `${count} of ${total} (${percent(count / total)})`;
      find('#cell').textContent = `${what}: ${of}`;
      list.append(...this.#listVideos(label, predicted));
    }
    this.draw();
  }

  #listVideos(label: number, predicted: number): HTMLElement[] {
    const own = this.#data.mistakes.filter(([a, b]) => a === label && b === predicted).slice(0, MAX_NAMED_VIDEOS);
    return own.map(([, , name]) => {
      const item = document.createElement('li');
      item.textContent = name;
      return item;
    });
  }

  #cellAt(event: MouseEvent): Cell | null {
    const { left, top, side } = this.#frame;
    const cell = side / this.#view.count;
    const row = Math.floor((event.offsetY - top) / cell);
    const column = Math.floor((event.offsetX - left) / cell);
    if (row < 0 || column < 0 || row >= this.#view.count || column >= this.#view.count) return null;
    return { row: row + this.#view.row, column: column + this.#view.column };
  }

  /** Shows where two classes meet. */
  #showPair(label: number, predicted: number): void {
    const at = { row: this.#placeOf(label), column: this.#placeOf(predicted) };
    this.#zoom(AROUND, at);
    this.#tell(at);
  }

  listen(): void {
    const search = find<HTMLInputElement>('#find-class');
    search.addEventListener('input', () => {
      const label = this.#findClass(search.value);
      if (label !== undefined) this.#showPair(label, label);
    });
    const order = find<HTMLSelectElement>('#order');
    order.addEventListener('change', () => {
      this.#setOrder(order.value as Order);
      this.#cell = null;
      this.draw();
    });
    find('#zoom-in').addEventListener('click', () => this.#zoom(this.#view.count / 1.6, this.#middle()));
    find('#zoom-out').addEventListener('click', () => this.#zoom(this.#view.count * 1.6, this.#middle()));
    find('#zoom-all').addEventListener('click', () => this.#zoom(this.#size, this.#middle()));
    for (const row of findAll('#pairs tbody tr'))
      find('button', row).addEventListener('click', () => {
        const [a = 0, b = 0] = (row.dataset.pair ?? '').split(',').map(Number);
        this.#showPair(a, b);
        this.#canvas.scrollIntoView({ block: 'center' });
      });
    this.#listenToPointer();
    this.#canvas.addEventListener('keydown', (event) => this.#press(event));
  }

  #findClass(text: string): number | undefined {
    const wanted = text.trim().toLowerCase();
    if (wanted === '') return undefined;
    const names = this.#data.classes.map((name) => name.toLowerCase());
    const found = [
      names.indexOf(wanted),
      names.findIndex((name) => name.startsWith(wanted)),
      names.findIndex((name) => name.includes(wanted)),
    ];
    return found.find((label) => label >= 0);
  }

  #listenToPointer(): void {
    const canvas = this.#canvas;
    let held: { x: number; y: number; row: number; column: number } | null = null;
    canvas.addEventListener('pointerdown', (event) => {
      held = { x: event.offsetX, y: event.offsetY, row: this.#view.row, column: this.#view.column };
    });
    addEventListener('pointerup', () => {
      held = null;
    });
    canvas.addEventListener('pointermove', (event) => {
      if (held === null || event.pointerType === 'touch') {
        const cell = this.#cellAt(event);
        if (cell !== null && (cell.row !== this.#cell?.row || cell.column !== this.#cell.column)) this.#tell(cell);
        return;
      }
      const pixels = this.#frame.side / this.#view.count;
      const most = this.#size - this.#view.count;
      const move = (from: number, by: number): number => Math.min(most, Math.max(0, Math.round(from - by / pixels)));
      this.#view.row = move(held.row, event.offsetY - held.y);
      this.#view.column = move(held.column, event.offsetX - held.x);
      this.draw();
    });
    canvas.addEventListener('click', (event) => this.#tell(this.#cellAt(event)));
    canvas.addEventListener('dblclick', (event) => {
      const cell = this.#cellAt(event);
      if (cell !== null) this.#zoom(this.#view.count / 2.5, cell);
    });
    canvas.addEventListener(
      'wheel',
      (event) => {
        if (!event.ctrlKey) return; // the page itself is scrolled
        event.preventDefault();
        this.#zoom(this.#view.count * (event.deltaY > 0 ? 1.25 : 0.8), this.#cellAt(event) ?? this.#middle());
      },
      { passive: false },
    );
  }

  #press(event: KeyboardEvent): void {
    const moves: Record<string, [number, number]> = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
    };
    const move = moves[event.key];
    if (move !== undefined) this.#move(...move);
    else if (event.key === '+' || event.key === '=') this.#zoom(this.#view.count / 1.6, this.#middle());
    else if (event.key === '-') this.#zoom(this.#view.count * 1.6, this.#middle());
    else if (event.key === 'Home') this.#zoom(this.#size, this.#middle());
    else return;
    event.preventDefault();
  }

  #move(rows: number, columns: number): void {
    const from = this.#cell ?? { row: this.#view.row - rows, column: this.#view.column - columns };
    const within = (place: number): number => Math.min(this.#size - 1, Math.max(0, place));
    const at = { row: within(from.row + rows), column: within(from.column + columns) };
    const { row, column, count } = this.#view;
    const isSeen = at.row >= row && at.row < row + count && at.column >= column && at.column < column + count;
    if (!isSeen) this.#zoom(count, at);
    this.#tell(at);
  }
}
