"""Ground floor: records, extents, errors, events, steps, and the one place that runs programs."""
