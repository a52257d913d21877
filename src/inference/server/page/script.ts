/** Runs in the server's page: sends the videos that are dropped there, one after the other, and shows what comes back. */

import { type Attention, type Missing, percent, showAttention, showTimeline, type Timeline } from './views.ts';

interface Predicted {
  timeline?: Timeline | Missing;
  attention?: Attention | Missing;
  classes: { label: number; name: string; probability: number | null; threshold?: number }[];
}

/** Returns an element that the page has. */
function find<E extends Element = HTMLElement>(selector: string, within: ParentNode = document): E {
  const found = within.querySelector<E>(selector);
  if (found === null) throw new Error(`the page has no ${selector}`);
  return found;
}

const state = find('#state');
const access = find<HTMLFormElement>('#access');
const waiting: (() => Promise<void>)[] = [];
let isBusy = false;

/** The address may bring the token behind a #, where no server and no log sees it. */
let token = new URLSearchParams(location.hash.slice(1)).get('token') ?? sessionStorage.getItem('token');
if (token !== null) sessionStorage.setItem('token', token);
history.replaceState(null, '', location.pathname);

/** Asks for the token until it is the right one; nothing is sent before. */
function askForToken(isWrong: boolean): Promise<void> {
  access.hidden = false;
  find('#refused').hidden = !isWrong;
  find<HTMLInputElement>('#token').focus();
  return new Promise((settle) => {
    access.addEventListener(
      'submit',
      (event) => {
        event.preventDefault();
        token = find<HTMLInputElement>('#token').value.trim();
        sessionStorage.setItem('token', token);
        access.hidden = true;
        settle();
      },
      { once: true },
    );
  });
}

function take(files: Iterable<File>): void {
  for (const file of files) {
    const shown = show(file);
    waiting.push(() => look(file, shown));
  }
  void work();
}

async function work(): Promise<void> {
  if (isBusy) return;
  isBusy = true;
  for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) await next();
  isBusy = false;
}

/** The place of a video on the page, at once: the newest on top. */
function show(file: File): HTMLElement {
  const article = find<HTMLTemplateElement>('#answer').content.cloneNode(true) as DocumentFragment;
  const shown = find('article', article);
  find('h2', shown).textContent = file.name;
  find('.what', shown).textContent = 'Waits for the others.';
  const video = find<HTMLVideoElement>('video', shown);
  video.setAttribute('aria-label', file.name);
  video.src = URL.createObjectURL(file);
  video.addEventListener('error', () => {
    video.hidden = true; // this browser cannot play it; the server may read it
  });
  find('#answers').prepend(article);
  return shown;
}

async function look(file: File, shown: HTMLElement): Promise<void> {
  const what = find('.what', shown);
  const going = find('.going', shown);
  state.textContent = what.textContent = `Sending ${file.name}`;
  for (;;) {
    const { status, body } = await send(file, shown);
    if (status === 401) {
      await askForToken(token !== null);
      continue;
    }
    going.hidden = true;
    const isRight = status === 200;
    if (isRight) showAll(shown, body as Predicted);
    what.textContent = isRight ? '' : explain(status, (body as { error?: string }).error);
    what.classList.toggle('warning', !isRight);
    state.textContent = isRight ? summarize(file, body as Predicted) : `${file.name}: ${what.textContent}`;
    return;
  }
}

/** Sends a video; `fetch` tells nothing of how far it is. Status 0: it was stopped, or the server is gone. */
function send(file: File, shown: HTMLElement): Promise<{ status: number; body: object }> {
  const progress = find<HTMLProgressElement>('progress', shown);
  const form = new FormData();
  if (find<HTMLInputElement>('#more').checked) form.append('also', 'timeline,attention');
  form.append('video', file);
  const request = new XMLHttpRequest();
  request.open('POST', 'predict');
  if (token !== null) request.setRequestHeader('authorization', `Bearer ${token}`);
  request.upload.addEventListener('progress', ({ loaded, total }) => {
    progress.value = loaded / total;
  });
  request.upload.addEventListener('load', () => {
    progress.removeAttribute('value'); // how long the answer takes nobody knows
    find('.what', shown).textContent = 'Looking at it ...';
  });
  find('.stop', shown).onclick = () => request.abort();
  return new Promise((settle) => {
    request.addEventListener('loadend', () => settle({ status: request.status, body: parse(request.responseText) }));
    request.send(form);
  });
}

function parse(text: string): object {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

const explain = (status: number, error: string | undefined): string =>
  error ??
  (status === 0 ? 'There was no answer: it was stopped, or the server is gone.' : `The server answered ${status}.`);

function showAll(shown: HTMLElement, predicted: Predicted): void {
  const { timeline, attention } = predicted;
  showClasses(find('.classes', shown), predicted);
  if (timeline !== undefined) showTimeline(find('.when', shown), timeline, find<HTMLVideoElement>('video', shown));
  if (attention !== undefined) showAttention(find('.where', shown), attention);
}

function showClasses(list: Element, { classes }: Predicted): void {
  for (const { name, probability } of classes) {
    const item = document.createElement('li');
    const [label, value, bar] = [
      document.createElement('span'),
      document.createElement('span'),
      document.createElement('i'),
    ];
    label.textContent = name;
    value.textContent = percent(probability);
    bar.style.setProperty('--share', `${100 * (probability ?? 0)}%`);
    item.append(label, value, bar);
    list.append(item);
  }
  if (classes.length === 0)
    list.append(Object.assign(document.createElement('li'), { textContent: 'No class reaches its threshold.' }));
}

/** What a screen reader says. */
function summarize(file: File, { classes: [first] }: Predicted): string {
  return first === undefined ? `${file.name}: no class` : `${file.name}: ${first.name}, ${percent(first.probability)}`;
}

const drop = find('#drop');
const input = find<HTMLInputElement>('#file');
input.addEventListener('change', () => {
  take([...(input.files ?? [])]);
  input.value = ''; // the same one may be chosen again
});
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  drop.classList.add('over');
});
document.addEventListener('dragleave', ({ relatedTarget }) => {
  if (relatedTarget === null) drop.classList.remove('over');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  take([...(event.dataTransfer?.files ?? [])]);
});
