"""pydantic=True turns arguments into models and models into results."""

from celery import Celery
from pydantic import BaseModel

from compat.harness import outcome, worker

app = Celery("pydantic_models")


class Order(BaseModel):
    item: str
    amount: int = 1


class Receipt(BaseModel):
    total: int


@app.task(pydantic=True)
def buy(order: Order, note: str | None = None, again: Order | None = None) -> Receipt:
    return Receipt(total=order.amount * 10 + (again.amount if again else 0))


@app.task(pydantic=True, pydantic_strict=True)
def strict(order: Order):
    return type(order).__name__


def main():
    with worker():
        print(buy.delay({"item": "tea", "amount": 3}).get(timeout=10))
        print(buy.delay({"item": "tea"}, again={"item": "cup", "amount": 2}).get(timeout=10))
        print(buy.delay(Order(item="milk", amount=2)).get(timeout=10))
        print(type(outcome(buy.delay({"amount": 3}).get, timeout=10)).__name__)
        print(buy.delay({"item": 1}).get(timeout=10, propagate=False).__class__.__name__)
        print(strict.delay({"item": "tea", "amount": 3}).get(timeout=10))
        print(strict.delay({"item": "tea", "amount": "3"}).get(timeout=10, propagate=False).__class__.__name__)
    print(buy(Order(item="x")), buy({"item": "x"}))
