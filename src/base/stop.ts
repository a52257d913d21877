/** The signals that ask a command to stop: the same for every command. */

/** Calls `handler` at SIGINT, SIGTERM and, but under nohup, SIGHUP (the terminal was closed); returns what ends that. */
export function onStop(handler: () => void): () => void {
  const names = ['SIGINT', 'SIGTERM', ...(process.env.COLDFRAME_IGNORE_HUP ? [] : (['SIGHUP'] as const))] as const;
  for (const name of names) process.on(name, handler);
  return () => {
    for (const name of names) process.off(name, handler);
  };
}
