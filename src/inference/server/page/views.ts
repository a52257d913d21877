/** What the page shows beside the classes of a video: when each is seen, and where the decoder looks. */

export interface Timeline {
  seconds: number;
  is_whole: boolean;
  classes: { label: number; name: string; probability: number | null }[];
  windows: { start: number; end: number; classes: { label: number; probability: number | null }[] }[];
  segments: { start: number; end: number; label: number; name: string; probability: number }[];
}

export interface Attention {
  strip: string;
  frames: { seconds: number; weight: number }[];
  name: string;
  probability: number;
}

export interface Missing {
  error: string;
}

const MOST_ROWS = 6;
const HEIGHT = 26; // of a row's curve, in units of its own
const SVG = 'http://www.w3.org/2000/svg';

export const percent = (share: number | null): string => (share === null ? '–' : `${(100 * share).toFixed(1)} %`);

function make<K extends keyof HTMLElementTagNameMap>(name: K, text = '', className = ''): HTMLElementTagNameMap[K] {
  const made = document.createElement(name);
  made.textContent = text;
  if (className !== '') made.className = className;
  return made;
}

/** `1:02.5`, minutes and seconds. */
const clock = (seconds: number): string => {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, '0')}`;
};

/** A row a class: its probability over time, and below its segments, which take the video there. */
export function showTimeline(place: HTMLElement, timeline: Timeline | Missing, video: HTMLVideoElement): void {
  place.append(make('h3', 'What is seen when'));
  if ('error' in timeline) {
    place.append(make('p', `Not shown: ${timeline.error}`, 'quiet'));
    return;
  }
  const { seconds, segments, classes, windows } = timeline;
  const seen = new Map(segments.map(({ label, name }) => [label, name]));
  for (const { label, name } of classes) seen.set(label, name);
  const rows = make('div', '', 'timeline');
  for (const [label, name] of [...seen].slice(0, MOST_ROWS)) {
    const track = make('div', '', 'track');
    track.append(drawCurve(windows, label, seconds, name));
    for (const one of segments.filter((segment) => segment.label === label)) {
      const button = make('button');
      const words = `${name}, ${clock(one.start)} to ${clock(one.end)}, ${percent(one.probability)}`;
      button.type = 'button';
      button.title = words;
      button.setAttribute('aria-label', words);
      button.style.setProperty('--from', `${(100 * one.start) / seconds}%`);
      button.style.setProperty('--wide', `${(100 * (one.end - one.start)) / seconds}%`);
      button.addEventListener('click', () => {
        video.currentTime = one.start;
      });
      track.append(button);
    }
    rows.append(make('span', name), track);
  }
  const none = segments.length === 0 ? ' No class reaches its threshold anywhere.' : '';
  const cut = timeline.is_whole ? '' : ' There was no time for the rest of the video.';
  place.append(rows, make('p', `0:00.0 to ${clock(seconds)}.${none}${cut}`, 'quiet'));
}

function drawCurve(windows: Timeline['windows'], label: number, seconds: number, name: string): SVGElement {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 100 ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', `Probability of ${name} over time`);
  const points = windows.map(({ start, end, classes }) => {
    const probability = classes.find((one) => one.label === label)?.probability ?? 0;
    return [(50 * (start + end)) / seconds, HEIGHT * (1 - probability)] as const;
  });
  const [first, last] = [points[0]?.[1] ?? HEIGHT, points.at(-1)?.[1] ?? HEIGHT];
  const path = document.createElementNS(SVG, 'path');
  const middle = points.map(([x, y]) => `L${x.toFixed(2)} ${y.toFixed(2)}`).join('');
  path.setAttribute('d', `M0 ${HEIGHT}L0 ${first}${middle}L100 ${last}L100 ${HEIGHT}Z`);
  svg.append(path);
  return svg;
}

/** The frames of the clip in the middle, brighter where it is looked, and the share of each. */
export function showAttention(place: HTMLElement, attention: Attention | Missing): void {
  place.append(make('h3', 'Where the decoder looks'));
  if ('error' in attention) {
    place.append(make('p', `Not shown: ${attention.error}`, 'quiet'));
    return;
  }
  const picture = make('img');
  picture.src = attention.strip;
  const most = attention.frames.reduce((a, b) => (b.weight > a.weight ? b : a));
  picture.alt = `The ${attention.frames.length} frames of the clip in the middle; most is looked at that of ${clock(most.seconds)}`;
  const weights = make('ol', '', 'weights');
  for (const { seconds, weight } of attention.frames)
    weights.append(make('li', `${clock(seconds)} ${percent(weight)}`));
  const about = `For ${attention.name}, ${percent(attention.probability)} of this clip alone. The shares are together one.`;
  place.append(picture, weights, make('p', about, 'quiet'));
}
