"""The shell around every verb: composing, checking and storing options."""
