"""What every stage needs, and the trainers."""
