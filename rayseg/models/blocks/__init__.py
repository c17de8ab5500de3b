"""Small layers that several detection networks are built from."""
