"""What a table of records says about time: rows of events, of turns and of streams, and how to draw it."""
