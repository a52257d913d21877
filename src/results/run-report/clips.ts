/** Videos in the page of `report`: the worst, the most confused, the least certain, and those whose label is likely wrong. */

import { basename } from 'node:path';
import { html, type SafeHtml } from '@remix-run/html-template';
import { plural } from '../../base/words.ts';
import type { Clip, LabelError } from '../../runtime/analysis-replies.ts';
import { percent } from '../html.ts';
import { renderTable } from '../page-parts.ts';
import { NUM_CARDS, nameClass, type RunView } from './view.ts';

const MAX_LISTED = 300;

export function renderClips(view: RunView): SafeHtml {
  const { worst, confused = [], uncertain } = view.analysis.clips;
  const isMulti = view.analysis.is_multi;
  const farthest = isMulti
    ? 'Whose classes are farthest from its labels, over all classes.'
    : 'Wrong, and least probable of all to be what their label says.';
  return html`<section>
<h2>Videos to look at</h2>
<p class="quiet">Four frames of each. The names are those of the list.</p>
${renderCards(view, 'The worst', farthest, worst)}
${renderCards(view, 'The most confused', 'Two classes, almost equally probable.', confused)}
${renderCards(view, 'The least certain', 'Probability spread over many classes.', uncertain)}
</section>`;
}

function renderCards(view: RunView, title: string, about: string, clips: Clip[]): SafeHtml | null {
  if (clips.length === 0) return null;
  return html`<h3>${title}</h3><p class="quiet">${about}</p>
<ul class="cards">${clips.map((clip) => renderCard(view, clip))}</ul>`;
}

function renderCard(view: RunView, clip: Clip, note: SafeHtml | null = null): SafeHtml {
  const { source, pictures } = view;
  const picture = pictures.get(clip.name);
  const image =
    picture === undefined
      ? html`<p class="no-picture">no frame can be read here</p>`
      : html`<img src="${picture.address}" width="${picture.width}" height="${picture.height}" alt="Four frames of ${basename(clip.name)}">`;
  const own = new Set(clip.labels.map(([label]) => label));
  const line = ([label, probability]: [number, number], kind: string): SafeHtml =>
    html`<li class="${kind}"><span class="answer">${nameClass(source, label)}</span>${kind === 'own' ? html` <small class="own-label">label</small>` : null}<span class="probability">${percent(probability)}</span></li>`;
  const best = clip.best.map((one) => line(one, own.has(one[0]) ? 'own' : 'other'));
  const told = new Set(clip.best.map(([label]) => label));
  const missing = clip.labels.filter(([label]) => !told.has(label)).map((one) => line(one, 'own'));
  return html`<li class="card">${image}<p class="mono" title="${clip.name}">${shorten(clip.name)}</p>
<ul class="answers">${best}${missing}</ul>${note}</li>
`;
}

/** The end of a path tells clips apart. */
const shorten = (name: string): string => (name.length > 70 ? `…${name.slice(-69)}` : name);

export function renderLabelErrors(view: RunView): SafeHtml {
  const { source, analysis } = view;
  const errors = analysis.label_errors;
  const cards = errors.slice(0, NUM_CARDS).map((error) => renderCard(view, error, describeError(view, error)));
  const rest = errors
    .slice(NUM_CARDS, NUM_CARDS + MAX_LISTED)
    .map(({ name, labels, suggested, best }) => [
      name,
      labels.map(([label]) => nameClass(source, label)).join(', ') || '–',
      nameClass(source, suggested),
      percent(best.find(([label]) => label === suggested)?.[1]),
    ]);
  const left = errors.length - NUM_CARDS - rest.length;
  const head = ['video', 'label', 'rather', 'probability'];
  const table =
    rest.length === 0
      ? null
      : html`<details><summary>${plural(rest.length, 'more')}${left > 0 ? `, and ${left} in label-errors.csv` : ''}</summary>${renderTable(head, rest, 'More likely label errors', 0)}</details>`;
  const count = analysis.num_label_errors;
  const estimate =
    count === null
      ? ''
      : `About ${plural(count, 'label')} of ${analysis.num_videos} ${count === 1 ? 'is' : 'are'} wrong. `;
  const found =
    errors.length === 0
      ? html`<p>No label looks wrong.</p>`
      : html`<p>${estimate}${plural(errors.length, 'video')} to look at, the likeliest first; <code>label-errors.csv</code> beside this page has all, to be handed to whoever labels.</p>
<ul class="cards" id="label-errors">${cards}</ul>${table}`;
  return html`<section>
<h2>Labels that are likely wrong</h2>
${found}
<details><summary>How they are found</summary>
<p class="quiet">Confident learning (Northcutt, Jiang and Chuang, arXiv 1911.00068) says how many there are: the model is confident of
  a class where its probability is at least the mean of the videos that bear the label, and a video that it is confident of as
  another class than its label counts as wrong. (Two standard deviations more are listed than that count.) Which they are says the margin: the probability of the label less that of the
  best class, the lowest first. A model that has learned a mistake finds no fault with it, and a hard video may look like a
  wrong label: look before you change one.</p></details>
</section>`;
}

function describeError({ source }: RunView, { suggested, is_missing: isMissing }: LabelError): SafeHtml {
  const name = nameClass(source, suggested);
  if (isMissing === undefined) return html`<p class="suggested">rather <strong>${name}</strong></p>`;
  return html`<p class="suggested">${isMissing ? 'lacks' : 'has too many:'} <strong>${name}</strong></p>`;
}
