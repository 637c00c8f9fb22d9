"""An American put on a binomial lattice; the values of a level overwrite those of the level after it."""
import numpy as np

SIZES = 6, 90
ACTIVE = 0, 1, 2, 3


def program(spot, strike, rate, volatility, levels):
    dt = 1.0 / levels
    up = np.exp(volatility * np.sqrt(dt))
    down = 1.0 / up
    discount = np.exp(-rate * dt)
    p = (1.0 / discount - down) / (up - down)
    price = np.empty(levels + 1)
    for i in range(levels + 1):
        price[i] = spot * up ** (levels - i) * down**i
    value = np.maximum(strike - price, 0.0)
    for level in range(levels, 0, -1):
        for i in range(level):
            price[i] *= down
            hold = discount * (p * value[i] + (1.0 - p) * value[i + 1])
            value[i] = max(hold, strike - price[i])
    return value[0]


def arguments(levels):
    return 97.3, 101.1, 0.03, 0.31, levels
