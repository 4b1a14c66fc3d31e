"""What is written inside text: tags and marks that tell thoughts, calls and results from speech."""
