"""The benchmark on a GPU, which benchmarks/gpu.py runs.

goals   cases, what is asked of them, which of it is met, the table
device  what it runs on: a GPU, or a processor to rehearse
checks  whether the kernels are right, on a GPU or interpreted
timing  how long they take beside others and a copy
advice  what the thresholds should be, which are guesses until a GPU was there
"""
