"""Fits a line and two clusters to `Samples` (200) made-up points: numpy, pandas, scipy, scikit-learn.

Its imports take about a second: register it with them as `Preload`, and a cold start doesn't.
"""

import numpy
import pandas
from scipy import stats
from sklearn.cluster import KMeans


def handler(params, context):
    count = int((params or {}).get("Samples", 200))
    x = numpy.linspace(0, 10, count)
    # The same points at every call: a function should be as good as its word.
    noise = numpy.random.default_rng(seed=1).normal(0, 0.1, count)
    points = pandas.DataFrame({"x": x, "y": 3 * x + 2 + noise})
    line = stats.linregress(points.x, points.y)
    clusters = KMeans(n_clusters=2, n_init=3, random_state=1).fit_predict(points)
    sizes = pandas.Series(clusters).value_counts()
    return {
        "Slope": round(float(line.slope), 1),
        "Intercept": round(float(line.intercept), 1),
        "Clusters": sorted(int(size) for size in sizes),
        "Mean": round(float(points.y.mean()), 1),
    }
