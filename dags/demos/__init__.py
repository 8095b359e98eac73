"""Little worlds with planted truth, and the demos that are judged by it."""
