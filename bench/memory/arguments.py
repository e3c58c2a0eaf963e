"""What the commands of this folder are given in the same way."""
import argparse


def parser(description):
    found = argparse.ArgumentParser(description=description,
                                    formatter_class=argparse.RawTextHelpFormatter)
    found.add_argument("--refrain", required=True)
    found.add_argument("--data", required=True)
    found.add_argument("--threads", default="2")
    return found
