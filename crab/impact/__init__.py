"""What the background does to the science, and ways to put it into other simulations."""
