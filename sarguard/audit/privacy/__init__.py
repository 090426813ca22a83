"""What a record may say of content, and under which keys."""
