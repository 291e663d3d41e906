"""HTTP on what this installation offers."""

from fastapi import APIRouter

from app.catalog.schemas import MethodList, MethodResource, ModelList, ModelResource
from app.dependencies import PrincipalDep, SettingsDep
from eggs_core.sources import offered_models
from eggs_core.spec import Method

router = APIRouter(prefix="/v1", tags=["Catalog"])


@router.get("/methods", summary="List methods")
def list_methods(_: PrincipalDep) -> MethodList:
    """The ways to choose the weights that stay."""
    data = [MethodResource.of(method) for method in Method]
    return MethodList(data=data, first_id=data[0].id, last_id=data[-1].id, has_more=False)


@router.get("/models", summary="List models")
def list_models(_: PrincipalDep, settings: SettingsDep) -> ModelList:
    """The models that can be pruned without a download."""
    data = [ModelResource.of(model) for model in offered_models(settings.model_roots)]
    return ModelList.of(data)
