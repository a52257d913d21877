/** The file of class names: the line number is the label. */

import { isUtf8 } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { explainReadError, showPath, UserError } from '../base/errors.ts';
import { quote } from '../base/words.ts';

/** Returns the class names of a file, one a line in the order of the labels. Raises UserError with its bad lines. */
export function readClasses(file: string): string[] {
  const name = showPath(file);
  let bytes: Buffer;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    throw new UserError(`${name}  ${explainReadError(error, null, 'a file with one class name a line')}`);
  }
  if (!isUtf8(bytes)) throw new UserError(`${name}  is not valid UTF-8. Write one class name a line, in UTF-8.`);
  const names = bytes
    .toString('utf8')
    .replace(/^\uFEFF/, '')
    .trimEnd()
    .split('\n')
    .map((line) => line.trim());
  if (names.length === 1 && names[0] === '') throw new UserError(`${name}  is empty. Write one class name a line.`);
  const firstLines = new Map<string, number>();
  const problems: string[] = [];
  names.forEach((className, index) => {
    const first = firstLines.get(className);
    if (className === '')
      problems.push(`${name}:${index + 1}  is blank. The line number is the label: remove the line or name the class.`);
    else if (first === undefined) firstLines.set(className, index + 1);
    else problems.push(`${name}:${index + 1}  ${quote(className)} is on line ${first} too. A class has one line.`);
  });
  if (problems.length > 0) throw new UserError(problems);
  return names;
}
