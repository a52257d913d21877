/**
 * YAML files and `--set` options as one flat table of dotted keys, each with the place it was written at.
 *
 * `extends` is followed and `${ENV}` is filled in here; what the keys mean is load.ts's business.
 */
import { isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from 'yaml';
import { explainReadError, showPath } from '../base/errors.ts';

export interface Entry {
  value: unknown;
  /** Where the value is: `file:line:col` or `--set key=value`. */
  where: string;
  /** Where each part of its key is. */
  places: string[];
  /** The folder that a relative path in the value starts from. */
  folder: string;
  /** Variables that could not be filled in: no matter if a later file replaces the value. */
  problems: string[];
}

export interface Source {
  entries: Map<string, Entry>;
  problems: string[];
}

/** The keys that stand or fall together: who gives one replaces all that an extended file gave. */
export type UnitOf = (key: string) => string;

interface Reading extends Source {
  env: NodeJS.ProcessEnv;
  /** With it a key may be written with dots: `train.lr: 1e-3`. */
  unitOf: UnitOf | undefined;
}

/** What is known while one text is read. */
interface Reader extends Reading {
  document: Document;
  folder: string;
  locate: (offset: number) => string;
}

/** No key is this deep; an alias that holds itself would be endless. */
const MAX_DEPTH = 8;
const MAX_FAULTS = 5;

/** Returns the entries of a file and of all it extends, then of `--set`; later ones replace earlier ones. */
export function readSource(file: string, set: string[], env: NodeJS.ProcessEnv, unitOf?: UnitOf): Source {
  const source: Reading = { entries: new Map(), problems: [], env, unitOf };
  readFileChain(resolve(file), `${showPath(file)}  `, [], source);
  for (const option of set) readOption(option, source);
  return source;
}

/** Returns the entries of `--set` alone. */
export function readOptions(set: string[], env: NodeJS.ProcessEnv): Source {
  const source: Reading = { entries: new Map(), problems: [], env, unitOf: undefined };
  for (const option of set) readOption(option, source);
  return source;
}

function readFileChain(file: string, from: string, chain: string[], source: Reading): void {
  if (chain.includes(file)) {
    const loop = [...chain.slice(chain.indexOf(file)), file].map(showPath).join(' -> ');
    source.problems.push(`${from}the file extends itself: ${loop}. Remove one of these.`);
    return;
  }
  const text = readText(file, from, source.problems);
  if (text === null) return;
  const lines = new LineCounter();
  const locate = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return `${showPath(file)}:${line}:${col}`;
  };
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const own: Reader = { ...source, document, folder: dirname(file), locate, entries: new Map() };
  if (!readDocument(own, text, [], locate(0))) return;
  readBases(own, [...chain, file], source);
  if (source.unitOf) removeUnits(own.entries.keys(), source.entries, source.unitOf);
  for (const [key, entry] of own.entries) source.entries.set(key, entry);
}

function readText(file: string, from: string, problems: string[]): string | null {
  const own = from.startsWith(`${showPath(file)} `); // else the line begins with who names the file
  try {
    const bytes = readFileSync(file);
    const isWide = bytes[0] === 0xff || bytes[0] === 0xfe; // the mark of UTF-16
    if (!bytes.includes(0) && isUtf8(bytes)) return bytes.toString('utf8');
    const what = isWide ? 'is UTF-16. Save it as UTF-8.' : 'is no text. Give the path of a YAML file, in UTF-8.';
    problems.push(`${from}${own ? '' : `${file} `}${what}`);
  } catch (error) {
    problems.push(`${from}${explainReadError(error, own ? null : file, 'a YAML file')}`);
  }
  return null;
}

function removeUnits(given: Iterable<string>, entries: Map<string, Entry>, unitOf: UnitOf): void {
  const units = new Set([...given].map(unitOf));
  for (const key of [...entries.keys()]) if (units.has(unitOf(key))) entries.delete(key);
}

/** Takes `extends` out of a file's own entries and reads the files it names. */
function readBases(own: Reader, chain: string[], source: Reading): void {
  const entry = own.entries.get('extends');
  own.entries.delete('extends');
  if (entry === undefined || entry.value === null) return;
  own.problems.push(...entry.problems);
  const names: unknown[] = Array.isArray(entry.value) ? entry.value : [entry.value];
  for (const name of names) {
    if (typeof name === 'string' && name !== '') {
      readFileChain(resolve(own.folder, name), `${entry.where}  extends: `, chain, source);
    } else {
      own.problems.push(`${entry.where}  extends: found ${JSON.stringify(name)}. Allowed: a file or a list of files.`);
    }
  }
}

function readOption(option: string, source: Reading): void {
  const where = `--set ${option}`;
  const split = option.indexOf('=');
  if (split < 1) {
    source.problems.push(`${where}: found no value. Write --set key=value, for example --set train.lr=1e-4.`);
    return;
  }
  const text = option.slice(split + 1);
  const document = parseDocument(text, { prettyErrors: false });
  const key = option.slice(0, split);
  if (source.unitOf?.(key) === key) removeUnits([key], source.entries, source.unitOf);
  readDocument({ ...source, document, folder: process.cwd(), locate: () => where }, text, key.split('.'), where);
}

/** Returns whether the text could be read; its entries are then in the reader. */
function readDocument(reader: Reader, text: string, path: string[], where: string): boolean {
  const { document, problems, locate } = reader;
  const faults = [...document.errors, ...document.warnings];
  const lines = faults.map((fault) => `${locate(fault.pos[0])}  ${explainFault(fault.code, fault.message)}`);
  const unquoted = faults.flatMap((fault) => findUnquoted(text, fault.pos[0]) ?? []);
  // One mistake makes many faults, and the first tells most.
  const told =
    unquoted.length > 0 ? [...new Set(unquoted)].map((one) => `${locate(faults[0]?.pos[0] ?? 0)}  ${one}`) : lines;
  problems.push(...told.slice(0, MAX_FAULTS));
  if (told.length > MAX_FAULTS) problems.push(`${where}  ${told.length - MAX_FAULTS} more places are not valid YAML.`);
  if (faults.length > 0) return false;
  const isEmptyFile = path.length === 0 && document.contents === null;
  if (path.length === 0 && !isEmptyFile && !isMap(document.contents)) {
    problems.push(`${where}  found no keys. A configuration is made of sections, for example \`train:\`.`);
    return false;
  }
  if (!isEmptyFile)
    walk(
      document.contents,
      path,
      path.map(() => where),
      reader,
    );
  return true;
}

/** Braces of a variable inside other braces or brackets are YAML's own, unless they are quoted. */
function findUnquoted(text: string, offset: number): string | undefined {
  const begin = text.lastIndexOf('\n', offset - 1) + 1;
  const line = text.slice(begin, text.indexOf('\n', offset) < 0 ? undefined : text.indexOf('\n', offset));
  const [, value] = /[{[,:]\s*([^\s"'{},[\]]*\$\{[^}]*\}[^\s,\]}]*)/.exec(line) ?? [];
  return value !== undefined && /[{[].*\$\{/.test(line)
    ? `found ${value} inside braces or brackets. Write "${value}", with the quotes.`
    : undefined;
}

function explainFault(code: string, message: string): string {
  if (code === 'DUPLICATE_KEY') return 'this key was given before. Keep one of them.';
  if (code === 'TAB_AS_INDENT') return 'tabs are not allowed as indentation. Use spaces.';
  return `not valid YAML: ${message.split('\n')[0]}. Correct it, or quote the text.`;
}

function walk(given: unknown, path: string[], places: string[], reader: Reader): void {
  const node = isAlias(given) ? given.resolve(reader.document) : given;
  const keyWhere = places.at(-1) ?? '';
  if (path.length > MAX_DEPTH) {
    reader.problems.push(`${keyWhere}  ${path[0]}: nested too deeply. No key has more than three parts.`);
  } else if (isMap(node) && node.items.length > 0) {
    for (const { key, value } of node.items) {
      const name = isScalar(key) ? String(key.value) : '?';
      const place = placeOf(key, keyWhere, reader);
      const parts = name.split('.');
      if (parts.length > 1 && !reader.unitOf) {
        reader.problems.push(`${place}  ${name}: a key holds no dots in a file. Write nested sections.`);
      } else {
        walk(value, [...path, ...parts], [...places, ...parts.map(() => place)], reader);
      }
    }
  } else {
    // A null that is written as nothing has no place of its own.
    const where =
      isScalar(node) && node.value === null && node.source === '' ? keyWhere : placeOf(node, keyWhere, reader);
    const problems: string[] = [];
    const value = readValue(node, where, { ...reader, problems }, 0);
    reader.entries.set(path.join('.'), { value, where, places, folder: reader.folder, problems });
  }
}

function placeOf(node: unknown, otherwise: string, reader: Reader): string {
  const range = isScalar(node) || isSeq(node) || isMap(node) ? node.range : null;
  return range ? reader.locate(range[0]) : otherwise;
}

function readValue(given: unknown, where: string, reader: Reader, depth: number): unknown {
  const node = isAlias(given) ? given.resolve(reader.document) : given;
  if (isSeq(node) && depth < MAX_DEPTH) return node.items.map((item) => readValue(item, where, reader, depth + 1));
  if (isMap(node)) return {};
  if (!isScalar(node)) return null;
  if (typeof node.value !== 'string' || !node.value.includes('${')) return node.value;
  const text = fillEnvironment(node.value, where, reader);
  return node.type === 'PLAIN' ? retype(text) : text;
}

function fillEnvironment(text: string, where: string, reader: Reader): string {
  return text.replace(/\$\$\{|\$\{(?:([A-Za-z_]\w*)(?::-([^}]*))?\})?/g, (match, name?: string, otherwise?: string) => {
    if (match === '$${') return '${';
    if (name === undefined) {
      reader.problems.push(
        `${where}  \`\${\` names no variable. Write \${NAME}, \${NAME:-default}, or $\${ for the text \${.`,
      );
      return '';
    }
    const value = reader.env[name];
    // As in a shell, `:-` also replaces a variable that is set to nothing.
    if (otherwise !== undefined) return value || otherwise;
    if (value === undefined) {
      reader.problems.push(`${where}  \${${name}} is not set. Set the variable, or write \${${name}:-default}.`);
    }
    return value ?? '';
  });
}

/** Returns the number, truth value or null that an unquoted text is, else the text: `steps: ${STEPS}` is a number. */
function retype(text: string): unknown {
  const document = parseDocument(text, { prettyErrors: false });
  const node = document.contents;
  if (document.errors.length > 0 || (node !== null && !isScalar(node))) return text;
  const value: unknown = node === null ? null : node.value;
  return typeof value === 'string' ? text : value;
}
