/** The videos that `predict` names the classes of: files, parts of files, or a list of them on stdin. */

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { UserError } from '../base/errors.ts';
import { keepLine, quote } from '../base/words.ts';
import { type Part, readColumns, readTime } from '../data/line.ts';

/** A video as it was given, and what it means. */
export interface Video {
  name: string;
  path: string;
  part: Part | null;
}

/** Returns the videos given; `-` stands for a list on stdin. Throws UserError with those that are not there. */
export async function findVideos(given: string[]): Promise<Video[]> {
  const problems: string[] = [];
  const videos = (await listNames(given)).flatMap((name) => {
    const video = readName(name);
    if (typeof video !== 'string') return [video];
    problems.push(`${keepLine(name)}  ${video}`);
    return [];
  });
  if (problems.length > 0) throw new UserError(problems);
  return videos;
}

/** A path a line (or between zeros, as `find -print0` writes), or a list of parts, whose labels are of no use here. */
async function listNames(given: string[]): Promise<string[]> {
  if (!given.includes('-')) return given;
  const list = await text(process.stdin);
  const lines = list.split(list.includes('\0') ? '\0' : /\r?\n/).filter((line) => line !== '');
  const names = readColumns(lines[0] ?? '') === 'parts' ? lines.slice(1).map(nameLine) : lines;
  if (names.length === 0) throw new UserError('-  stdin held no path. Give a list there, a path a line.');
  const at = given.indexOf('-');
  return [...given.slice(0, at), ...names, ...given.slice(at + 1).filter((path) => path !== '-')];
}

function nameLine(line: string): string {
  const [, path, start, end] = /^\s*(.*?)\s+\S+\s+(\S+)\s+(\S+)\s*$/.exec(line) ?? [];
  if (path === undefined)
    throw new UserError(`-  ${quote(line)} has not all four columns. Write \`<path> <label> <start> <end>\`.`);
  return `${path}#t=${start},${end}`;
}

/** Returns the video of a name, `PATH` or `PATH#t=START,END`, or what is wrong with it. */
function readName(name: string): Video | string {
  if (existsSync(name)) return { name, path: resolve(name), part: null };
  const [, path, start, end] = /^(.+)#t=([^,]*),([^,]*)$/s.exec(name) ?? [];
  if (path === undefined || !existsSync(path)) return 'does not exist.';
  const [from, to] = [start, end].map((word) => readTime(Buffer.from(word ?? ''), 0, Buffer.byteLength(word ?? '')));
  if (from === undefined || to === undefined || !(from >= 0 && from < to))
    return 'is no part of a file. Write PATH#t=START,END in seconds, the start before the end, such as a.mp4#t=12,20.5.';
  return { name, path: resolve(path), part: { start: from, end: to } };
}
