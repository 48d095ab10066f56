"""What is measured, one program a system: started as a producer, or by its worker."""
