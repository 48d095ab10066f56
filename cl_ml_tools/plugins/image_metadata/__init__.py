"""Tell what a picture is and what its file says about it."""
