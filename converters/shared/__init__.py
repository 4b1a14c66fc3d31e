"""What several formats use: checked access to fields, session logs, pieces of streams."""
