"""What people look at: reports of runs, views of samples."""
