from asgiref.sync import sync_to_async
from django.db import transaction
from django.http import JsonResponse

from polls.models import Question
from polls.tasks import count


@transaction.atomic
def vote(request, question_id):
    question = Question.objects.select_for_update().get(pk=question_id)
    question.votes += 1
    question.save()
    result = count.delay(question.pk)
    if "break" in request.GET:
        raise RuntimeError("after the call")
    return JsonResponse({"task": result.id})


async def ask(request):
    def add():
        with transaction.atomic():
            question = Question.objects.create(text=request.GET["text"])
            return count.delay(question.pk).id

    return JsonResponse({"task": await sync_to_async(add)()})
