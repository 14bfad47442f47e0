"""The commands of `mmkd-bench`: arguments in, one call, sheets and files out."""

ABOUT = "Latency, memory and energy of a bundle on the machine that runs it."
