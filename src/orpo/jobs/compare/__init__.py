"""The runs of `orpo compare`: each in a process of its own, so that its time and memory are too."""
