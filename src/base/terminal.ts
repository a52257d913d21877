/** What a terminal shows: colour where it is wanted, and one line that moves and always fits. */

const COLOURS = { red: 31, yellow: 33, bold: 1 };
export type Colour = keyof typeof COLOURS;

/** As https://no-color.org and https://force-color.org have it; the latter wins, as in Node. */
export function wantsColour(stream: { isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): boolean {
  if (env.FORCE_COLOR !== undefined) return !['0', 'false'].includes(env.FORCE_COLOR);
  return !env.NO_COLOR && env.TERM !== 'dumb' && stream.isTTY === true;
}

/** Colours each line by itself: a line cut out of a log is still readable. */
export function paint(text: string, colour: Colour, stream: { isTTY?: boolean }): string {
  if (!wantsColour(stream)) return text;
  const one = (line: string): string => (line === '' ? '' : `\x1b[${COLOURS[colour]}m${line}\x1b[0m`);
  return text.split('\n').map(one).join('\n');
}

/** Colours the `where` of each line that has the form `where  what was found`, else the whole line. */
export function paintPlaces(text: string, colour: Colour, stream: { isTTY?: boolean }): string {
  const one = (line: string): string => {
    const [, where = line, rest = ''] = /^(\S.*?)( {2}.*)$/.exec(line) ?? [];
    return line.startsWith(' ') ? line : `${paint(where, colour, stream)}${rest}`;
  };
  return text.split('\n').map(one).join('\n');
}

/** What moves: `value` of `total` is done. */
export interface Progress {
  what: string;
  value: number;
  total: number;
  /** 0..1, where it is known better than by `value`. */
  share?: number;
  /** Where it is going on, as `c0001 120/300`. */
  place?: string;
  loss?: number | null;
  etaSeconds?: number | null;
  detail?: string;
}

const MIN_BAR = 8;
const MAX_BAR = 30;

/** Returns the line of a progress, at most `width` characters: what matters least is left out first, the ETA never. */
export function layOut(progress: Progress, width: number): string {
  const { what, value, total, place, loss, etaSeconds, detail } = progress;
  const pieces = [
    { text: what, order: 3 },
    { text: `${value}/${total}`, order: 6 },
    { text: place ?? '', order: 4 },
    { text: loss == null ? '' : `loss ${Number(loss.toPrecision(4))}`, order: 5 },
    { text: '', order: 2, isBar: true },
    { text: detail ?? '', order: 1 },
    { text: `ETA ${formatEta(etaSeconds ?? Number.NaN)}`, order: 7 },
  ];
  let kept = pieces.filter(({ text, isBar }) => isBar || text !== '');
  const lengthOf = (): number => kept.reduce((sum, { text, isBar }) => sum + 1 + (isBar ? MIN_BAR : text.length), -1);
  while (lengthOf() > width && kept.length > 1) {
    const least = Math.min(...kept.map(({ order }) => order));
    kept = kept.filter(({ order }) => order !== least);
  }
  const room = Math.min(MAX_BAR, MIN_BAR + width - lengthOf());
  const share = progress.share ?? value / total;
  return kept
    .map(({ text, isBar }) => (isBar ? drawBar(share, room) : text))
    .join(' ')
    .slice(0, width);
}

function drawBar(share: number, width: number): string {
  const inner = width - 2;
  const filled = Math.round(inner * Math.min(1, Math.max(0, Number.isFinite(share) ? share : 0)));
  return `[${'='.repeat(filled)}${' '.repeat(inner - filled)}]`;
}

/** `02:03`, from an hour on `1:02:03`: short, for it is never cut. */
export function formatEta(seconds: number): string {
  if (!Number.isFinite(seconds)) return '--:--';
  const total = Math.round(seconds);
  const [hours, ...rest] = [Math.floor(total / 3600), Math.floor(total / 60) % 60, total % 60];
  const clock = rest.map((part) => String(part).padStart(2, '0')).join(':');
  return hours ? `${hours}:${clock}` : clock;
}

const REDRAW_SECONDS = 0.1;
const DEFAULT_COLUMNS = 80; // where the terminal does not tell

/** The line that moves, at the bottom of a terminal. Whoever prints there clears it first. */
export class MovingLine {
  readonly #stream: NodeJS.WriteStream;
  #isDrawn = false;
  #last = 0;
  #key = '';
  #began = { value: 0, time: 0 };

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  /** Shows a progress; one whose caller does not know how long it takes gets an ETA by what is done so far. */
  show(progress: Progress): void {
    const now = Date.now();
    const key = `${progress.what} ${progress.total}`;
    if (key !== this.#key) {
      this.#key = key;
      this.#began = { value: progress.value, time: now };
    } else if (this.#isDrawn && now - this.#last < REDRAW_SECONDS * 1000 && progress.value < progress.total) return;
    const { value, time } = this.#began;
    const pace = (now - time) / 1000 / (progress.value - value);
    const etaSeconds =
      progress.etaSeconds === undefined ? (progress.total - progress.value) * pace : progress.etaSeconds;
    this.#draw(layOut({ ...progress, etaSeconds }, this.#width()));
  }

  /** Shows what is being waited for, without a measure. */
  tell(text: string): void {
    this.#key = '';
    this.#draw(text.slice(0, this.#width()));
  }

  clear(): void {
    if (this.#isDrawn) this.#stream.write('\r\x1b[K');
    this.#isDrawn = false;
  }

  #draw(text: string): void {
    this.#stream.write(`\r${text}\x1b[K`);
    this.#isDrawn = true;
    this.#last = Date.now();
  }

  /** The last column stays free: some terminals go to the next line there. */
  #width(): number {
    return (this.#stream.columns || DEFAULT_COLUMNS) - 1;
  }
}

/** Returns whether a line can be drawn over there: not in a pipe, a file or a terminal without a cursor. */
export function canMove(stream: { isTTY?: boolean }, env: NodeJS.ProcessEnv = process.env): boolean {
  return stream.isTTY === true && env.TERM !== 'dumb';
}
