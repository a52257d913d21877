/** What `/metrics` tells, in the form of Prometheus. */

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

const SECONDS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120];

export class Metrics {
  readonly #registry = new Registry();
  readonly #registers = [this.#registry];
  readonly requests = new Counter({
    name: 'coldframe_requests_total',
    help: 'Requests that were answered',
    labelNames: ['route', 'status'] as const,
    registers: this.#registers,
  });
  readonly seconds = new Histogram({
    name: 'coldframe_request_seconds',
    help: 'From the first byte of a request to the last of its answer',
    labelNames: ['route'] as const,
    buckets: SECONDS,
    registers: this.#registers,
  });
  readonly #callJobs = new Histogram({
    name: 'coldframe_batch_videos',
    help: 'Videos that were looked at together',
    buckets: [1, 2, 4, 8, 16, 32],
    registers: this.#registers,
  });
  readonly #callSeconds = new Histogram({
    name: 'coldframe_batch_seconds',
    help: 'Decoding and computing of videos that were looked at together',
    buckets: SECONDS,
    registers: this.#registers,
  });
  /** `read` is asked whenever the metrics are. */
  constructor(read: () => { inHand: number; waiting: number; isReady: boolean; restarts: number }) {
    collectDefaultMetrics({ register: this.#registry });
    new Counter({
      name: 'coldframe_worker_restarts_total',
      help: 'How often Python died and was started again',
      registers: this.#registers,
      collect() {
        this.reset();
        this.inc(read().restarts);
      },
    });
    const gauge = (name: string, help: string, value: () => number): void =>
      void new Gauge({
        ...{ name, help, registers: this.#registers },
        collect() {
          this.set(value());
        },
      });
    gauge('coldframe_requests_in_hand', 'Requests that are received or wait for their answer', () => read().inHand);
    gauge('coldframe_waiting', 'Videos that wait for the worker', () => read().waiting);
    gauge('coldframe_worker_ready', '1 while Python can be asked', () => Number(read().isReady));
  }

  observeCall(numVideos: number, seconds: number): void {
    this.#callJobs.observe(numVideos);
    this.#callSeconds.observe(seconds);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  show(): Promise<string> {
    return this.#registry.metrics();
  }
}
