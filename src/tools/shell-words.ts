/** The words of one command in a shell text: quotes, continued lines, comments, redirections and the text's own variables. */
import { basename } from 'node:path';
import { UserError } from '../base/errors.ts';

const PIECES = [
  /(?<space>(?:[ \t\r]|\\\r?\n)+)/,
  /(?<redirection>(?<=^|[\s;|&])\d*[<>]+&?[ \t]*(?:"[^"]*"|'[^']*'|[^\s;|&<>"'])+)/,
  /(?<comment>(?<=^|[\s;|&])#[^\n]*)/,
  /(?<end>[\n;|&]+)/,
  /'(?<single>[^']*)'/,
  /"(?<double>(?:[^"\\]|\\[\s\S])*)"/,
  /(?<plain>(?:[^\s;|&'"\\]|\\[\s\S])+)/,
];
const PIECE = new RegExp(PIECES.map(({ source }) => source).join('|'), 'y');

/** Returns the words of the first command that runs `program`, else of the first. Raises UserError for an open quote. */
export function findCommand(text: string, program: string): string[] {
  const commands = readCommands(text);
  return commands.find((words) => words.some((word) => basename(word) === program)) ?? commands[0] ?? [];
}

function readCommands(text: string): string[][] {
  const variables = new Map<string, string>();
  const commands: string[][] = [];
  let words: string[] = [];
  let isInWord = false; // the parts of `a"b"c` are one word
  const endCommand = () => {
    const [, name, value] = (words.length === 1 && /^(\w+)=(.*)$/s.exec(words[0] ?? '')) || [];
    if (name !== undefined && value !== undefined) variables.set(name, value);
    else if (words.length > 0) commands.push(words);
    words = [];
  };
  for (const { single, double, plain, end } of readPieces(text)) {
    const part = single ?? fillWord(double ?? plain, variables);
    if (part !== undefined) words.push(isInWord ? `${words.pop()}${part}` : part);
    if (end !== undefined) endCommand();
    isInWord = part !== undefined;
  }
  endCommand();
  return commands;
}

function* readPieces(text: string): Generator<Record<string, string | undefined>> {
  for (let index = 0; index < text.length; index = PIECE.lastIndex) {
    PIECE.lastIndex = index;
    const groups = PIECE.exec(text)?.groups;
    if (groups === undefined) {
      const line = text.slice(0, index).split('\n').length;
      throw new UserError(`line ${line} of the command  found ${text.slice(index, index + 20)}. Close the quote.`);
    }
    yield groups;
  }
}

/** Returns the text as the shell hands it on; a variable that the text does not set stays, as `${NAME}`. */
function fillWord(text: string | undefined, variables: Map<string, string>): string | undefined {
  return text?.replace(/\\\r?\n|\\([\s\S])|\$(?:\{(\w+)\}|(\w+))/g, (match, escaped, braced, bare) => {
    if (match.startsWith('\\')) return escaped ?? '';
    const name = String(braced ?? bare);
    return variables.get(name) ?? `\${${name}}`;
  });
}
