"""A plugin of cl_ml_tools that writes a text onto pictures."""
