"""Measurements that anyone can repeat: each prints what is compared side by side, from one run."""
