/** Whether a later attempt has taken a folder over: looked at while work goes on, which shows that it lives. */

/** What is looked at and kept alive: the folder. */
export interface Fence {
  isFenced(): boolean;
  beat(): void;
}

const FENCE_SECONDS = 0.5;
const BEATS = 6; // looks at the fence from one sign of life to the next

/** Calls `lose` when the folder is lost, and gives signs of life until then; returns what ends that. */
export function watchFence(folder: Fence, lose: () => void): () => void {
  let numLooks = 0;
  const timer = setInterval(() => {
    if (isLost(folder)) lose();
    else if (numLooks++ % BEATS === 0) beat(folder);
  }, FENCE_SECONDS * 1000).unref();
  return () => clearInterval(timer);
}

/** A sign that cannot be given just now comes with the next one. */
function beat(folder: Fence): void {
  try {
    folder.beat();
  } catch {}
}

/** A file that cannot be read just now is no later attempt; the next write asks again, and says so. */
function isLost(folder: Fence): boolean {
  try {
    return folder.isFenced();
  } catch {
    return false;
  }
}
