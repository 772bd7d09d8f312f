"""The rules a case must pass, one function each, which gives what breaks it or None."""
