"""What programs in other languages, and people, need to speak with Nebula: made from the code."""
