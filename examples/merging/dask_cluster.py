"""Merge several networks on a cluster: every pair is aligned by a worker of its own.

Workers are sent NumPy arrays and the permutation graph, so that they need rebasin-core and nothing else. Here the
cluster is this machine; for another, give `Client` the address of its scheduler. Needs ``pip install distributed
scikit-learn``; run it with ``python dask_cluster.py``, or with ``--quick`` for smaller networks.
"""

import argparse
import warnings

from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import rebasin_core as rb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three networks of 32 units in place of five of 128")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    images, digits = load_digits(return_X_y=True)
    images = images / 16.0
    count, width = (3, 32) if options.quick else (5, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        models = [
            MLPClassifier((width, width), max_iter=40, random_state=seed).fit(images[:1200], digits[:1200])
            for seed in range(count)
        ]
    here = LocalCluster(n_workers=options.workers, threads_per_worker=1, dashboard_address=None)
    with here as cluster, Client(cluster) as client:
        result = rb.align_many(models, method="cycle", executor=client.get_executor())
    print(result)
    naive = rb.interpolate(models[0], models[1], 0.5)
    for name, model in (("first network", models[0]), ("mean of two, as they are", naive), ("merged", result.merge())):
        print(f"{name}: test accuracy {model.score(images[1200:], digits[1200:]):.3f}")


if __name__ == "__main__":
    main()
