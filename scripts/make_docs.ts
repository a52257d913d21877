/**
 * Writes the generated parts of docs/: the keys of a configuration and of a sweep file, the events, and the tree by folder;
 * and the schemas of configs/.
 *
 * `make docs` runs it; test/docs.test.ts holds what is committed equal to what it would write. Keys come from the schemas,
 * lines of the tree from the first sentence of each file. Folders are described below.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { z } from 'zod';
import { PROJECT } from '../src/base/paths.ts';
import { describeAllowed, type KnownKeys } from '../src/config/keys.ts';
import { SPACE_FIELDS, SWEEP_KEYS } from '../src/sweep/definition/schema.ts';
import { listKeys } from '../src/tools/list-keys.ts';
import { renderEvents } from './make_events_doc.ts';
import { renderSchemas } from './make_schemas.ts';

/** What each folder is for. One that is not here, or is here and nowhere else, is an error. */
const FOLDERS: Record<string, string> = {
  src: 'The program: decides what runs.',
  'src/commands': 'The command line: options, help, and the call into the rooms below.',
  'src/commands/train-and-use': 'The verbs under "Train and use" of `coldframe --help`: a file each.',
  'src/commands/get-ready': 'The verbs under "Get ready": a file each.',
  'src/results': 'What people look at afterwards: `sweep status`, `sweep report` and its page, `compare`.',
  'src/results/run-report': '`report`: what one training came to, as a page, as JSON and in short.',
  'src/results/report-page': 'Style and scripts of the pages of `sweep report` and `report`.',
  'src/sweep': 'A sweep from its file to its result.',
  'src/sweep/definition': 'The sweep file: keys, space, points and trials.',
  'src/train': '`train`: what is checked before, the loop, and what sizes a run.',
  'src/inference/prediction': 'What videos show: `predict`, its inputs and the files that it writes.',
  'src/inference':
    'What is done with a finished checkpoint: `evaluate`, `predict`, `ensemble`, `export`, `checkpoint convert`.',
  'src/inference/server': '`serve`: requests in, answers out, and the one Python behind them.',
  'src/inference/server/page': 'The page of `serve`: its HTML, style and script.',
  'src/caches': 'Work done once for many trainings: stored features and prepared clips.',
  'src/weights': 'Weights of backbones: `weights fetch` and `weights inspect`.',
  'src/tools/init': '`init`: what a folder holds, what of it can be trained on, and a configuration that fits.',
  'src/tools': '`doctor`, `bench`, `keys`, `import-command`.',
  'src/run': 'The run folder: what lies there, who may write there, and what may change when a run goes on.',
  'src/caches/parts': 'Large jobs in parts, over the executors of sweeps.',
  'src/executors':
    'Where jobs run, such as the cohorts of a sweep: this machine, Slurm or Ray; and which job runs when.',
  'src/data': 'Lists of clips, read and checked.',
  'src/data/check': '`check`: what is found in lists and how it is told; training uses the quick part of it.',
  'src/data/probe': 'Clips that cannot be used: looked for by `check --probe`, kept, and counted while work goes on.',
  'src/data/layouts': 'Lists made from the layouts that clips come in, and split.',
  'src/data/layouts/annotations': 'Layouts of data sets and of labelling tools: a file each.',
  'src/runtime': 'The bridge to Python: starting it, calling it, watching it. Not a run: that is `run/` and `train/`.',
  'src/runtime/transports': 'How a request gets to Python: into one process, or to the ranks of torchrun.',
  'src/runtime/nodes': 'Several machines: which of them this one is, and what they tell each other.',
  'src/config':
    'The configuration: keys and defaults, YAML with places, `--set`, and configurations of earlier versions.',
  'src/base/events': 'Events: their kinds with all fields, and how people read them.',
  'src/base/process': 'Processes: which live, signals that ask one to stop, locks of one writer.',
  'src/base/page': 'What every HTML page is made in: the document, colours and type, how its script is built.',
  'src/base': 'What everything stands on: errors, events, printing, files, locks, signals.',
  'py/coldframe': 'The Python runtime: computes.',
  'py/coldframe/serve': 'The doors: how requests come from Node, to one process or to the ranks of torchrun.',
  'py/coldframe/session': 'The verbs, and what is running while they are asked.',
  'py/coldframe/train': 'Training: trials in a cohort, checkpoints, metrics; the search of a sweep.',
  'py/coldframe/train/curves': 'Training curves: TensorBoard, Weights & Biases, MLflow.',
  'py/coldframe/train/gradients': 'From gradients to a step: their sum over the ranks, and AdamW.',
  'py/coldframe/train/targets':
    'What labels ask of a trial: its loss, mixed clips, and from which score on a class is there.',
  'py/coldframe/evaluate': 'Evaluation and its scores, and what is looked at in them; timelines, attention.',
  'py/coldframe/evaluate/export': 'Exported models, the example beside them, and features for other programs.',
  'py/coldframe/assembly': 'From settings to models, loaders and what they will cost.',
  'py/coldframe/cache': 'The feature cache: computed once, read in the place of the backbone.',
  'py/coldframe/prepare': '`clips prepare`: re-encoding.',
  'py/coldframe/decoders': 'The trained parts: a folder each.',
  'py/coldframe/decoders/evl': 'EVL: temporal modules, decoder and classifier.',
  'py/coldframe/decoders/linear': 'A linear layer on pooled tokens.',
  'py/coldframe/backbones': 'The frozen parts: a folder each.',
  'py/coldframe/backbones/clip': "CLIP's vision tower.",
  'py/coldframe/data': 'From lists to batches: order, clips, augmentation, the loader.',
  'py/coldframe/video': 'Which frames a clip needs, and decoding just those.',
  'py/coldframe/machine': 'The machine: devices, cores, files, locks, shared memory.',
};

/** Every file that has a generated part, with its text; the parts written by hand stay. */
export function renderDocs(): Map<string, string> {
  return new Map([
    ['docs/configuration.md', fillIn('docs/configuration.md', 'keys', renderKeys())],
    ['docs/sweeps.md', fillIn('docs/sweeps.md', 'keys', renderSweepKeys())],
    ['docs/events.md', renderEvents()],
    ['docs/architecture.md', fillIn('docs/architecture.md', 'tree', renderTree())],
    ...renderSchemas(),
  ]);
}

const read = (file: string): string => readFileSync(join(PROJECT, file), 'utf8');

/** The text of a file with what stands between its two marks replaced. */
function fillIn(file: string, name: string, text: string): string {
  const [begin, end] = [`<!-- ${name}: written by \`make docs\` -->\n`, `<!-- end of ${name} -->\n`];
  const whole = read(file);
  const [from, to] = [whole.indexOf(begin), whole.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${file}  has no part between ${begin.trim()} and ${end.trim()}`);
  return `${whole.slice(0, from)}${begin}\n${text}\n${whole.slice(to)}`;
}

interface DocumentedKey {
  key: string;
  allowed: string;
  default: unknown;
  about: string;
}

function renderKeys(): string {
  const keys = listKeys();
  const sections = [...new Set(keys.map(({ key }) => sectionOf(key)))];
  const tables = sections.map((section) => {
    const own = keys.filter(({ key }) => sectionOf(key) === section);
    return `### ${section}\n\n${renderTable(own)}\n`;
  });
  return tables.join('\n');
}

function sectionOf(key: string): string {
  return key.split('.').slice(0, -1).join('.');
}

function renderSweepKeys(): string {
  const fields = describeKeys(SPACE_FIELDS).map(({ key, allowed, about }) => `- \`${key}\`: ${about} ${allowed}`);
  return [
    'Besides these a file may hold `extends`, `set` and `space`.',
    renderTable(describeKeys(SWEEP_KEYS)),
    'A key of `space` is a list of values, or has some of these:',
    `${fields.join('\n')}\n- \`when\`: vary it only where these keys have one of these values.\n`,
  ].join('\n\n');
}

function describeKeys(known: KnownKeys): DocumentedKey[] {
  return [...known.keys].map(([key, schema]) => {
    const described = z.toJSONSchema(schema, { io: 'input' });
    return {
      key,
      allowed: describeAllowed(key, known),
      default: described.default,
      about: described.description ?? '',
    };
  });
}

function renderTable(keys: DocumentedKey[]): string {
  const rows = keys.map(({ key, allowed, default: value, about }) => {
    const shown = value === undefined ? 'none' : `\`${JSON.stringify(value)}\``;
    return `| ${[`\`${key}\``, shown, about, allowed].map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  });
  return ['| key | default | meaning | allowed |', '|---|---|---|---|', ...rows].join('\n');
}

function renderTree(): string {
  const found = new Set<string>();
  const text = ['src', 'py/coldframe'].flatMap((root) => renderFolder(root, found)).join('\n');
  const stale = Object.keys(FOLDERS).filter((folder) => !found.has(folder));
  if (stale.length > 0) throw new Error(`scripts/make_docs.ts describes ${stale.join(', ')}, which does not exist`);
  return `${text}\n`;
}

function renderFolder(folder: string, found: Set<string>): string[] {
  const about = FOLDERS[folder];
  if (about === undefined) throw new Error(`${folder}/  has no line in scripts/make_docs.ts, FOLDERS`);
  found.add(folder);
  const entries = readdirSync(join(PROJECT, folder), { withFileTypes: true });
  const names = (isFolder: boolean): string[] =>
    entries
      .filter((entry) => entry.isDirectory() === isFolder)
      .filter(({ name }) => (isFolder ? name !== '__pycache__' : /\.(ts|py)$/.test(name)))
      .map(({ name }) => `${folder}/${name}`)
      .sort();
  const lines = names(false)
    .map((file) => ({ file, line: readFirstSentence(file) }))
    .filter(({ line }) => line !== null)
    .map(({ file, line }) => `- \`${basename(file)}\`: ${line}`);
  const title = folder.split('/').length === (folder.startsWith('py/') ? 2 : 1) ? '###' : '####';
  return [
    `${title} ${folder}/`,
    '',
    about,
    '',
    ...lines,
    '',
    ...names(true).flatMap((one) => renderFolder(one, found)),
  ];
}

/** The first sentence of a file's head; null of an empty file. Lines for tools and shape legends are passed over. */
export function readFirstSentence(file: string): string | null {
  const text = read(file);
  if (text.trim() === '') return null;
  const legend = /^(#!.*|# Shapes:.*(\n# .*)*)\n+/;
  let head = text;
  while (legend.test(head)) head = head.replace(legend, '');
  const [, block] =
    /^\/\*\*?\s*([\s\S]*?)\*\//.exec(head) ??
    /^"""([\s\S]*?)"""/.exec(head) ??
    /^((?:(?:#|\/\/) .*\n)+)/.exec(head) ??
    [];
  const words = block
    ?.split('\n')
    .map((line) => line.replace(/^\s*(\*|#|\/\/) ?/, '').trim())
    .join('\n')
    .split('\n\n')[0]
    ?.replaceAll('\n', ' ')
    .trim();
  if (!words) throw new Error(`${file}  does not begin with a sentence that says what it is for`);
  return /^.*?[.](?= [A-Z]|$)/.exec(words)?.[0] ?? words;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  for (const [file, text] of renderDocs()) if (read(file) !== text) writeFileSync(join(PROJECT, file), text);
