"""Pages and pictures: reports of runs, views of samples."""
