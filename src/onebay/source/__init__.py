"""Where the bytes of an image come from: a file, a pipe, HTTP."""
