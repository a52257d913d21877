/** The page of `predict --timeline FILE.html`: for each video a bar of segments a class, the surest class over time, and a table. */

import { basename } from 'node:path';
import { html, type SafeHtml } from '@remix-run/html-template';
import { formatPlace, percent } from '../../base/format.ts';
import { renderDocument } from '../../base/page/document.ts';
import { plural } from '../../base/words.ts';
import type { TimelineSegment } from '../../runtime/prediction-replies.ts';
import type { Failed, Timeline, Timelines } from './timeline.ts';

const HEIGHT = 100;
const NUM_TICKS = 5;

/** Returns the whole page. It loads nothing, and needs no script. */
export function renderTimelines({ checkpoint, options, videos }: Timelines): string {
  const [only] = videos;
  const title = `Timeline of ${videos.length === 1 && only !== undefined ? basename(only.path) : plural(videos.length, 'video')}`;
  const threshold =
    options.threshold === null ? 'its threshold (50 % where none was chosen)' : percent(options.threshold);
  return renderDocument({
    title,
    styles: 'inference/prediction/timeline-page.css',
    body: html`<header>
<h1>${title}</h1>
<p class="quiet">Seen by <code>${checkpoint}</code>. A segment is where a class reaches ${threshold}; its probability is the
mean there. Borders are as exact as the step from one window to the next.</p>
</header>
<main>
${videos.map((video, index) => ('error' in video ? renderFailed(video) : renderVideo(video, index)))}
</main>`,
  });
}

const renderFailed = ({ path, error }: Failed): SafeHtml => html`<section>
<h2>${path}</h2>
<p class="warning">${error}</p>
</section>`;

function renderVideo(video: Timeline, index: number): SafeHtml {
  const { path, seconds, num_damaged, broken, window_seconds, hop_seconds, segments } = video;
  const damage =
    num_damaged === 0 ? null : html`<p class="warning">${plural(num_damaged, 'frame')} could not be decoded whole.</p>`;
  const end = broken === null ? null : html`<p class="warning">It ended before its end: ${broken}.</p>`;
  return html`<section aria-labelledby="video-${index}">
<h2 id="video-${index}">${path}</h2>
<p class="quiet">${formatPlace(seconds)} long; windows of ${window_seconds.toFixed(2)} s, every ${hop_seconds.toFixed(2)} s.
  All of it together: ${video.classes.map(({ name, probability }) => `${name} ${percent(probability)}`).join(', ') || 'no class'}.</p>
${damage}${end}
${segments.length === 0 ? html`<p>No class is sure enough anywhere.</p>` : renderBars(video)}
${renderCurve(video)}
${segments.length === 0 ? null : renderTable(segments, index)}
</section>`;
}

/** Classes that are seen longest stand first. */
function renderBars({ segments, windows, seconds }: Timeline): SafeHtml {
  const begin = findBegin(windows, segments);
  const place = (at: number): string => `${((100 * (at - begin)) / Math.max(1e-9, seconds - begin)).toFixed(3)}%`;
  const width = (length: number): string => `${((100 * length) / Math.max(1e-9, seconds - begin)).toFixed(3)}%`;
  const rows = [...new Set(segments.map(({ label }) => label))].map((label) =>
    segments.filter((one) => one.label === label),
  );
  rows.sort((a, b) => sumSeconds(b) - sumSeconds(a));
  const bars = rows.map(
    (own) =>
      html`<div class="row"><span class="name">${own[0]?.name}</span><div class="track">${own.map(
        (one) =>
          html`<span class="bar" style="left:${place(one.start)};width:${width(one.end - one.start)};--hue:${(one.label * 137) % 360}" title="${one.name}, ${describePlace(one)}, ${percent(one.probability)}"></span>`,
      )}</div></div>`,
  );
  const ticks = Array.from({ length: NUM_TICKS }, (_, i) => begin + ((seconds - begin) * i) / (NUM_TICKS - 1));
  return html`<div class="bars" aria-hidden="true">${bars}<div class="row"><span class="name"></span><div class="axis">${ticks.map(
    (tick) => html`<span>${formatPlace(tick)}</span>`,
  )}</div></div></div>`;
}

const findBegin = (windows: Timeline['windows'], segments: TimelineSegment[]): number =>
  Math.min(windows[0]?.start ?? 0, segments[0]?.start ?? Number.POSITIVE_INFINITY);

const sumSeconds = (segments: TimelineSegment[]): number =>
  segments.reduce((sum, { start, end }) => sum + end - start, 0);

const describePlace = ({ start, end }: TimelineSegment): string => `${formatPlace(start)} to ${formatPlace(end)}`;

/** How sure the first class of each window is. */
function renderCurve({ windows, seconds, segments }: Timeline): SafeHtml | null {
  if (windows.length < 2) return null;
  const begin = findBegin(windows, segments);
  const points = windows.map(({ start, end, classes }) => {
    const x = (1000 * ((start + end) / 2 - begin)) / Math.max(1e-9, seconds - begin);
    return `${x.toFixed(1)},${(HEIGHT * (1 - (classes[0]?.probability ?? 0))).toFixed(1)}`;
  });
  return html`<div class="row"><span class="name">surest class</span><svg viewBox="0 0 1000 ${HEIGHT}" preserveAspectRatio="none" role="img"
  aria-label="Probability of the surest class over time, 0 at the bottom, 1 at the top"><polyline points="${points.join(' ')}"></polyline></svg></div>`;
}

function renderTable(segments: TimelineSegment[], index: number): SafeHtml {
  const rows = segments.map(
    (
      one,
    ) => html`<tr><td>${formatPlace(one.start)}</td><td>${formatPlace(one.end)}</td><th scope="row">${one.name}</th><td>${percent(one.probability)}</td></tr>
`,
  );
  return html`<details ${segments.length <= 200 ? html`open` : ''}><summary>${plural(segments.length, 'segment')}</summary>
<div class="scroll" tabindex="0" role="region" aria-label="Segments of video ${index + 1}"><table>
<thead><tr><th scope="col">from</th><th scope="col">to</th><th scope="col">class</th><th scope="col">probability</th></tr></thead>
<tbody>
${rows}</tbody></table></div></details>`;
}
