"""The Python runtime of coldframe: everything that computes. TypeScript decides what runs."""
