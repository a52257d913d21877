/** How counts and foreign names are written: plain functions, for every text that a person reads. */

/** Returns `1 video`, `2 videos`. */
export function plural(count: unknown, noun: string): string {
  const ending = /(s|x|ch|sh)$/.test(noun) ? 'es' : 's';
  return `${count} ${noun}${count === 1 ? '' : ending}`;
}

/** What a terminal obeys instead of showing: C0 without tab and line feed, DEL, C1, and what turns the reading direction. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const UNSAFE = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/**
 * Returns the text with characters that a terminal would obey written as `\u001b`. Names of files, classes and keys are
 * other people's; the form is JSON's too, so that a line of JSON stays one and means the same.
 */
export function makeSafe(text: string): string {
  return text.replace(UNSAFE, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Returns a name that stays on its line: a file's may hold a line feed. */
export const keepLine = (name: string): string => name.replaceAll('\n', '\\u000a');

/** Returns the text in lines of at most `width` characters, broken at blanks, and a longer word behind a slash where it
 * has one; what is broken is indented. */
export function wrapWords(text: string, width: number): string {
  return text
    .split('\n')
    .map((line) => wrapLine(line, width))
    .join('\n');
}

const INDENT = '  ';

function wrapLine(text: string, width: number): string {
  const lines = [''];
  for (const word of text.split(' ')) {
    const [first = '', ...more] = breakWord(word, Math.max(1, width - INDENT.length));
    const line = lines.at(-1) ?? '';
    const isBegun = line.trim() !== '';
    if (isBegun && line.length + 1 + first.length > width) lines.splice(-1, 1, line.trimEnd(), `${INDENT}${first}`);
    else lines[lines.length - 1] = line === '' ? first : `${line} ${first}`;
    lines.push(...more.map((part) => `${INDENT}${part}`));
  }
  return lines.join('\n');
}

/** Returns a word in parts of at most `width` characters. */
function breakWord(word: string, width: number): string[] {
  const parts: string[] = [];
  let rest = word;
  while (rest.length > width) {
    const end = rest.lastIndexOf('/', width - 1) + 1 || width;
    parts.push(rest.slice(0, end));
    rest = rest.slice(end);
  }
  return [...parts, rest];
}

/** Returns what a file held, short enough for a message and safe to print. */
export const quote = (text: string): string => JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text);

/** Returns a word as a shell takes it: as it is, or in quotes. */
export function quoteWord(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", "'\\''")}'`;
}
